"""``perscen reproduce``: make a release again from what it recorded, and compare."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click
import yaml
from rich.table import Table
from rich.text import Text

from components.console import open_console
from components.pipeline import PIPELINE
from components.splits_command import fetch_splits, remote_option

if TYPE_CHECKING:  # MLflow and torch take seconds that --help should not cost
    from components.adapters.registry import Registry
    from components.adapters.releases import Release
    from perscen.errors import PerscenError
    from perscen.manifests import AnyManifest
    from perscen.retrieval.bundle import Bundle

_AGAIN: Final = ("train", "index")
"""Steps that are run again; what they read is brought back."""
_DIGITS: Final = 12


class Remade(NamedTuple):
    """An artifact that was made again, or brought back."""

    name: str
    recorded: AnyManifest
    made: AnyManifest

    @property
    def equal(self) -> bool:
        """Whether both are the same, to the bit."""
        return self.recorded.digest == self.made.digest


@click.command()
@click.argument("selector", metavar="RELEASE")
@remote_option
@click.option("--name", default="perscen", show_default=True, help="Registered model in MLflow.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the artifacts go.  [default: artifacts/NAME-VERSION]",
)
def reproduce(selector: str, remote: str, name: str, to: Path | None) -> None:
    """Make the artifacts of RELEASE (a version or an alias) again, and compare their digests.

    Its splits come back from DVC by the hash it carries, its champion from the registry; on these
    it is trained and indexed again with the settings it recorded.

    \b
    Examples:
      perscen reproduce champion
      perscen reproduce 3 --remote s3://bucket/perscen --to artifacts/again
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    from components.adapters.registry import Registry

    registry = Registry(name)
    release = registry.release(selector)
    to = to or Path(f"artifacts/{name}-{release.version}")
    table = Table(title=f"{name} version {release.version}", title_justify="left")
    for column in ("artifact", "recorded", "re-created", "equal"):
        table.add_column(column)
    try:
        for remade in remake(registry, release, remote=remote, to=to):
            digests = (remade.recorded.digest[:_DIGITS], remade.made.digest[:_DIGITS])
            table.add_row(remade.name, *digests, "yes" if remade.equal else Text("no", style="red"))
            _check_equal(remade)
    finally:
        if table.row_count:
            open_console().print(table)
    click.echo(f"every artifact is the one that was released → {to}")


def remake(registry: Registry, release: Release, *, remote: str, to: Path) -> Iterator[Remade]:
    """Yield the artifacts of a release as they come back or are made again below ``to``.

    Raises:
        ArtifactError: The release did not record how it was made, was made by other code, or what
            it was made with is gone.
    """
    from components.runner import run_step
    from perscen.errors import ConfigError

    recorded = _manifests(registry.fetch(release), release)
    _check_code(recorded, release)
    try:
        settings = _settings(recorded)
    except ConfigError as exc:
        raise _of_other_code(release, exc.message) from exc
    yield Remade("splits", recorded["splits"], _bring_splits(recorded, release, remote, to))
    yield Remade("champion", recorded["champion"], _bring_champion(recorded, registry, to))
    config = to / "params.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    for step in (PIPELINE[name] for name in _AGAIN):
        made = run_step(
            step.name,
            config=config,
            logical_date=release.logical_date,
            inputs={name: to / name for name in step.inputs},
            output=to / step.output,
        )
        yield Remade(step.output, recorded[step.output], made)


def _manifests(bundle: Bundle, release: Release) -> dict[str, AnyManifest]:
    """Return the manifests a release carries, checked against its lineage."""
    from pydantic import ValidationError

    from perscen.errors import ArtifactError
    from perscen.manifests import MANIFEST
    from perscen.retrieval.bundle import MANIFESTS

    found: dict[str, AnyManifest] = {}
    for path in sorted((bundle.path / MANIFESTS).glob("*.json")):
        try:
            found[path.stem] = MANIFEST.validate_json(path.read_bytes())
        except ValidationError as exc:
            place = f"{MANIFESTS}/{path.name} of version {release.version}"
            raise _of_other_code(release, f"{place} is no manifest of this code: {exc}") from exc
    lineage = bundle.manifest.lineage
    told = {
        "splits": lineage.splits_digest,
        "model": lineage.model_digest,
        "indexes": lineage.indexes_digest,
    }
    for name, digest in told.items():
        if name not in found or found[name].digest != digest:
            raise ArtifactError(
                f"version {release.version} does not record how its {name} {digest[:_DIGITS]} "
                "came about",
                hint="only releases that carry manifests/ can be made again; publish it anew",
            )
    return found


def _check_code(recorded: dict[str, AnyManifest], release: Release) -> None:
    from components.runner import code_version

    for step in (PIPELINE[name] for name in _AGAIN):
        here, then = code_version(step), recorded[step.output].code_version
        if here != then:
            raise _of_other_code(
                release,
                f"version {release.version} was made by another revision of `{step.name}`: its "
                f"code_version is {then[:_DIGITS]}, here it is {here[:_DIGITS]}",
            )


def _of_other_code(release: Release, message: str) -> PerscenError:
    """Return the error for what only the code that published a release can make again."""
    from perscen.errors import ArtifactError

    where = f"`git checkout {release.revision}`" if release.revision else "check out the revision"
    return ArtifactError(
        message, hint=f"{where} that published it, without changes of your own, and try again"
    )


def _bring_splits(
    recorded: dict[str, AnyManifest], release: Release, remote: str, to: Path
) -> AnyManifest:
    from components.store import open_artifact
    from perscen.errors import ArtifactError

    if release.splits_dvc is None:
        raise ArtifactError(
            f"version {release.version} has no tag dvc.splits, which says where its splits are",
            hint="what `dvc repro` released is brought back by DVC: check out its revision, then "
            "`dvc pull`; orchestrated runs need PERSCEN_DVC_REMOTE to commit their splits",
        )
    digest = recorded["splits"].digest
    fetch_splits(release.splits_dvc, digest=digest, remote=remote, to=to / "splits")
    return open_artifact(to / "splits", kind="splits").manifest


def _bring_champion(recorded: dict[str, AnyManifest], registry: Registry, to: Path) -> AnyManifest:
    """Write the champion the release was judged against, whatever serves now."""
    from components.steps.champion import copy_release
    from components.store import staged, write_manifest
    from perscen.errors import ArtifactError
    from perscen.manifests import ChampionManifest

    manifest = recorded["champion"]
    assert isinstance(manifest, ChampionManifest)
    with staged(to / "champion") as scratch:
        if manifest.bundle_id is not None:
            release = registry.find(manifest.bundle_id)
            if release is None:
                raise ArtifactError(
                    f"the champion of that day, version {manifest.version} with bundle "
                    f"{manifest.bundle_id[:_DIGITS]}, is not in the registry any more",
                    hint="bring that version back; releases are never deleted",
                )
            copy_release(registry, release, to=scratch)
        # Sealed anew: the digest follows from what came back, not from what was recorded.
        return write_manifest(scratch, manifest)


def _settings(recorded: dict[str, AnyManifest]) -> dict[str, Any]:
    """Return a ``params.yaml`` with the settings of every artifact that came about by them."""
    from perscen.config import DataConfig, parse_split

    tree: dict[str, Any] = {}
    for manifest in recorded.values():
        tree |= manifest.settings
    split = parse_split(tree["split"], origin="the release's splits")
    return {
        "run": {"logical_date": recorded["model"].logical_date.isoformat()},
        "data": DataConfig.holding(split).model_dump(mode="json"),  # it is not made again
        **tree,
    }


def _check_equal(remade: Remade) -> None:
    from perscen.errors import ArtifactError

    if remade.equal:
        return
    then, now = (m.model_dump(exclude={"digest"}) for m in (remade.recorded, remade.made))
    fields = [name for name in then if then[name] != now.get(name)]
    raise ArtifactError(
        f"{remade.name} is not what was released: its digest is {remade.made.digest[:_DIGITS]}, "
        f"recorded is {remade.recorded.digest[:_DIGITS]}; "
        f"{', '.join(fields) or 'only its files'} differ",
        hint="inputs, settings and code are those recorded; results are equal to the bit on one "
        "kind of processor with the same number of threads and the pinned libraries",
    )
