"""The MLflow model registry: bundles as versions, and the alias that says which one serves.

The registry is used for what it keeps (files, tags, aliases), not as a model format: a version's
source is a bundle that one run of the experiment ``<name>-releases`` logged.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any, Final

import mlflow
import platformdirs
from filelock import FileLock, Timeout
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from components.adapters.mlflow_client import connect, download, experiment, sqlite_file, talking
from components.adapters.releases import (
    CHAMPION,
    PREVIOUS,
    RELEASED,
    Promotion,
    Release,
    check_unmoved,
    release_of,
)
from components.lock import alone
from perscen.errors import ArtifactError, ConfigError, ServiceUnavailable
from perscen.retrieval.bundle import Bundle, open_bundle
from perscen.retrieval.retriever import Retriever

logger = logging.getLogger(__name__)

_BUNDLE_PATH: Final = "bundle"
_LEASE_TIMEOUT_S: Final = 60
_FORBIDDEN_IN_NAMES: Final = frozenset("'\"/:\\")


class Registry:
    """Releases under one registered name.

    Args:
        name: The registered model.
        tracking_uri: The MLflow address; MLflow's own choice by default (``MLFLOW_TRACKING_URI``,
            else ``sqlite:///mlflow.db``).
        cache: Where downloaded bundles are kept, by bundle id; the user's cache by default.

    Raises:
        ConfigError: The address is not one of a registry.
        ServiceUnavailable: The registry does not answer.
    """

    def __init__(
        self, name: str, *, tracking_uri: str | None = None, cache: Path | None = None
    ) -> None:
        self.name = name
        self.tracking_uri = tracking_uri or mlflow.get_tracking_uri()
        self._cache = cache or platformdirs.user_cache_path("perscen") / "bundles"
        self._database = sqlite_file(self.tracking_uri)
        if forbidden := _FORBIDDEN_IN_NAMES.intersection(name):
            raise ConfigError(
                f"{name!r} cannot name a registered model: it has {' '.join(sorted(forbidden))}",
                hint="give publish.name letters, digits, '-', '_' and '.'",
            )
        self._client = connect(self.tracking_uri)

    def find(self, bundle_id: str) -> Release | None:
        """Return the release of a bundle, or None."""
        found = (release for release in self.releases() if release.bundle_id == bundle_id)
        return next(found, None)

    def releases(self) -> list[Release]:
        """Return every version that holds a bundle, oldest version first."""
        with self._talk("list the releases"):
            versions = self._pages()
        releases = [release_of(v) for v in versions if "bundle_id" in v.tags]
        return sorted(releases, key=lambda release: int(release.version))

    def champion(self) -> Release | None:
        """Return the release that ``champion`` points to, or None."""
        return self._aliased(CHAMPION)

    def newest_before(self, logical_date: date) -> Release | None:
        """Return the newest release of an earlier logical date, or None.

        A version counts once it was promoted or kept as a backfill, or serves now; one that a
        killed publisher left registered does not.
        """
        champion = self.champion()
        serving = champion.version if champion else None
        earlier = [
            release
            for release in self.releases()
            if (release.released or release.version == serving)
            and release.logical_date < logical_date
        ]
        return max(earlier, key=lambda r: (r.logical_date, int(r.version)), default=None)

    def register(self, bundle: Bundle, *, origin: Mapping[str, str] | None = None) -> Release:
        """Upload a bundle and return its new version.

        Each attempt uploads to a path of its own, and the version comes after the files: an attempt
        that dies leaves files nobody points to.
        ``origin`` are tags that say where its inputs are to be found, no part of what it is.
        """
        manifest = bundle.manifest
        lineage = manifest.lineage.model_dump(mode="json", exclude_none=True)
        tags = {**(origin or {}), **lineage, "bundle_id": manifest.bundle_id}
        tags |= {"fingerprint": ",".join(bundle.fingerprints), "family": manifest.family}
        with self._talk(f"register a version of {self.name!r}"):
            run = self._client.create_run(
                experiment(self._client, f"{self.name}-releases", tracking_uri=self.tracking_uri),
                run_name=f"release-{manifest.lineage.logical_date}",
                tags={"bundle_id": manifest.bundle_id},
            )
            self._client.log_artifacts(run.info.run_id, str(bundle.path), _BUNDLE_PATH)
            self._client.set_terminated(run.info.run_id)
            try:
                self._client.create_registered_model(self.name)
            except MlflowException as exc:
                if exc.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{run.info.artifact_uri}/{_BUNDLE_PATH}"
            version = self._client.create_model_version(
                self.name, source, run.info.run_id, tags=tags
            )
        logger.info("bundle registered", extra={"version": str(version.version)})
        return release_of(version)

    def verify(self, release: Release) -> Bundle:
        """Return the stored copy of a release after downloading it again and asking its probes.

        Raises:
            ArtifactError: The stored copy is not the bundle that was released.
        """
        bundle = self._download(release)
        Retriever.open(bundle.path)
        return bundle

    def check_champion(self, logical_date: date, expected_bundle_id: str | None) -> Release | None:
        """Return the champion, if a release of ``logical_date`` may be set against it.

        Args:
            logical_date: Day of the candidate.
            expected_bundle_id: The release its verdict was judged against.

        Raises:
            ArtifactError: ``champion`` moved since the verdict.
        """
        current = self.champion()
        if current is None or current.logical_date <= logical_date:
            check_unmoved(current, logical_date, expected_bundle_id=expected_bundle_id)
        return current

    def promote(self, release: Release, *, expected_bundle_id: str | None) -> Promotion:
        """Point ``champion`` to a verified release, and ``previous`` to the one before; repeatable.

        The alias moves last. A backfill, whose logical date is before the champion's, becomes a
        release of its day and moves nothing; nor does a day that a newer one overtakes meanwhile.

        Args:
            release: What to promote.
            expected_bundle_id: The release the verdict was judged against.

        Raises:
            ArtifactError: ``champion`` moved since the verdict.
        """
        with self._lease():
            # Read again under the lease: MLflow cannot compare and swap.
            current = self.check_champion(release.logical_date, expected_bundle_id)
            if current is not None and (
                current.bundle_id == release.bundle_id
                or current.logical_date > release.logical_date
            ):
                self._mark_released(release)
                logger.info("the champion stays", extra={"version": current.version})
                return self._promotion(moved=False)
            newer = self._newer_than(release)
            if current is not None:
                self._mark_released(current)
                self._set_alias(PREVIOUS, current)
            self._set_alias(CHAMPION, release)
            self._mark_released(release)
            return self._promotion(moved=self._settle(release, known=newer))

    def release(self, selector: str) -> Release:
        """Return the release of an alias (``champion``) or a version (``3``).

        Raises:
            ConfigError: There is no such alias or version.
        """
        with self._talk(f"look up {selector!r} of {self.name!r}"):
            if selector.isdigit():
                version = self._client.get_model_version(self.name, selector)
            else:
                version = self._client.get_model_version_by_alias(self.name, selector)
        return release_of(version)

    def resolve(self, selector: str) -> Bundle:
        """Return the verified local copy of an alias or a version.

        Raises:
            ConfigError: There is no such alias or version.
            ArtifactError: The stored copy is not the bundle that was released.
        """
        return self.fetch(self.release(selector))

    def fetch(self, release: Release) -> Bundle:
        """Return the verified local copy of a release, downloaded unless it is there and whole.

        Raises:
            ArtifactError: The stored copy is not the bundle that was released.
        """
        try:
            return open_bundle(self._cache / release.bundle_id)
        except ArtifactError:
            return self._download(release)

    def _download(self, release: Release) -> Bundle:
        self._cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._cache, prefix=".download-") as scratch:
            with self._talk(f"download version {release.version} of {self.name!r}"):
                place = download(release.source, to=scratch, tracking_uri=self.tracking_uri)
            bundle = open_bundle(Path(place))
            found = bundle.manifest.bundle_id
            if found != release.bundle_id:
                raise ArtifactError(
                    f"version {release.version} of {self.name!r} stores bundle {found[:12]}, its "
                    f"tag says {release.bundle_id[:12]}",
                    hint="go back to another release; versions are never edited",
                )
            target = self._cache / release.bundle_id
            with alone(target, what=target):
                try:
                    return open_bundle(target)  # which another process may be reading
                except ArtifactError:
                    if target.exists():
                        target.rename(Path(scratch) / "replaced")
                    bundle.path.rename(target)
        return Bundle(target, bundle.manifest)

    def _aliased(self, alias: str) -> Release | None:
        with self._talk(f"read the alias {alias!r}"):
            try:
                version = self._client.get_model_version_by_alias(self.name, alias)
            except MlflowException as exc:
                # No such alias yet (INVALID_PARAMETER_VALUE), or no such model.
                if exc.error_code in {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"}:
                    return None
                raise
        return release_of(version)

    def _set_alias(self, alias: str, release: Release) -> None:
        with self._talk(f"move the alias {alias!r}"):
            self._client.set_registered_model_alias(self.name, alias, release.version)

    def _mark_released(self, release: Release) -> None:
        with self._talk(f"tag version {release.version}"):
            self._client.set_model_version_tag(self.name, release.version, "state", RELEASED)

    def _newer_than(self, release: Release) -> list[Release]:
        """Return the releases of later days."""
        return [r for r in self.releases() if r.released and r.logical_date > release.logical_date]

    def _settle(self, release: Release, *, known: Collection[Release]) -> bool:
        """Return whether a promoted release stays, after giving the alias to the newest day's.

        Without a lease, two publishers may both find the champion unmoved and both move it. Each
        marks its release and only then looks here, so the last to look knows of both.

        Args:
            release: The one just promoted.
            known: Later days' releases from before: somebody went back from them.
        """
        rivals = [rival for rival in self._newer_than(release) if rival not in known]
        newest = max([release, *rivals], key=lambda rival: rival.logical_date)
        champion = self.champion()
        if champion is None or champion.logical_date < newest.logical_date:
            logger.warning(
                "another publisher moved the alias meanwhile", extra={"champion": newest.version}
            )
            self._set_alias(CHAMPION, newest)
        return newest is release

    def _promotion(self, *, moved: bool) -> Promotion:
        champion, previous = self.champion(), self._aliased(PREVIOUS)
        if champion is None:
            raise ServiceUnavailable(f"the alias {CHAMPION!r} of {self.name!r} vanished")
        return Promotion(champion.version, previous.version if previous else None, moved)

    def _pages(self) -> list[ModelVersion]:
        versions, token = [], None
        while True:
            page = self._client.search_model_versions(f"name='{self.name}'", page_token=token)
            versions += page
            token = page.token
            if not token:
                return versions

    @contextmanager
    def _lease(self) -> Iterator[None]:
        """Let one publisher at a time move aliases, if the registry is a file (SQLite).

        The lease of a dead publisher ends with it. A server gives none, as MLflow has neither locks
        nor a compare-and-swap; what two publishers then do is set right by :meth:`_settle`.
        """
        lease: AbstractContextManager[Any] = nullcontext()
        if self._database is not None:
            lock = self._database.with_name(f"{self._database.name}.{self.name}.lock")
            lease = FileLock(lock, timeout=_LEASE_TIMEOUT_S)
        try:
            with lease:
                yield
        except Timeout as exc:
            raise ServiceUnavailable(
                f"another publisher of {self.name!r} holds the lease for over {_LEASE_TIMEOUT_S} s",
                hint="try again when it is done",
            ) from exc

    def _talk(self, action: str) -> AbstractContextManager[None]:
        return talking(action, tracking_uri=self.tracking_uri)
