"""``perscen refresh``: put a release where it is served from, whole and tested, or not at all.

::

    <root>/<bundle id>/    verified copies of releases: what is served, and what was before
    <root>/current         link to the one that is served; moved last, in one step
    <root>/previous        link to the one before
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perscen.errors import ArtifactError, ConfigError

if TYPE_CHECKING:
    from perscen.retrieval.bundle import Bundle
    from perscen.retrieval.retriever import Retriever

CURRENT: Final = "current"
PREVIOUS: Final = "previous"
_BUNDLE_ID: Final = re.compile(r"[0-9a-f]{64}")
_LOCK: Final = ".refresh.lock"
_WARM_K: Final = 10


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option(
    "--bundle",
    "address",
    help="models:/NAME@ALIAS, models:/NAME/VERSION, or a directory.  [default: the champion of "
    "publish.name in --config]",
)
@click.option(
    "--to",
    "root",
    type=click.Path(path_type=Path),
    default="serving",
    show_default=True,
    help="Directory that is served from.",
)
@click.option("--check", "only_check", is_flag=True, help="Only test what is being served.")
def refresh(config: Path, address: str | None, root: Path, *, only_check: bool) -> None:
    """Serve a release: fetch it, check it, warm it, and only then swap it in.

    Every byte and every fingerprint is checked, the probes that travel with the release must get
    their recorded answers, and every scenario's index must answer. A release that fails stays out;
    what was served stays in place, and what was served before it is kept as `previous`.

    \b
    Examples:
      perscen refresh --to serving
      perscen refresh --to serving --check
      perscen refresh --bundle models:/perscen/3 --to serving
    """  # noqa: D301 (click reads the backspace: keep these lines as they are)
    if "://" in str(root) or str(root).startswith("s3:"):
        raise ConfigError(
            f"{root} is no directory of this machine", hint="give --to a local or mounted directory"
        )
    if only_check:
        click.echo(f"{_told(check(root))}; its probes get the recorded answers")
        return
    # Here, not above: torch, faiss and MLflow take seconds that --help should not cost.
    from components.adapters.addresses import resolve_bundle
    from perscen.config import read_config

    bundle = resolve_bundle(address or f"models:/{read_config(config).publish.name}@champion")
    told = _told(bundle)
    click.echo(f"now {told}" if swap_in(bundle, root) else f"already {told}; nothing to do")


def swap_in(bundle: Bundle, root: Path) -> bool:
    """Make a bundle the one that is served, and return whether it was not already.

    Raises:
        ArtifactError: The copy is not what was released, or a scenario does not answer; what was
            served is served still.
        StorageFull: The disk filled up.
    """
    from filelock import FileLock

    from perscen.staging import staged

    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / _LOCK):
        target = root / bundle.manifest.bundle_id
        served = _served(root)
        if served == target and _answers(served):
            return False
        with staged(target) as scratch:
            shutil.copytree(bundle.path, scratch, dirs_exist_ok=True)
            _open(scratch)
        if served is not None and served != target:
            _point(root / PREVIOUS, served)
        _point(root / CURRENT, target)
        _remove_older(root)
    return True


def check(root: Path) -> Bundle:
    """Return what is being served, after asking it its probes and every scenario.

    Raises:
        ArtifactError: Nothing is served, or it does not give the recorded answers.
    """
    served = _served(root)
    if served is None:
        raise ArtifactError(
            f"nothing is served from {root}: {CURRENT} is missing",
            hint="run `perscen refresh` first",
        )
    from perscen.retrieval.bundle import Bundle

    return Bundle(served, _open(served).manifest)


def _open(directory: Path) -> Retriever:
    """Return a retriever on a bundle that has passed its probes and answers in every scenario."""
    from perscen.retrieval.retriever import Retriever

    retriever = Retriever.open(directory)
    for scenario in retriever.scenarios:
        # Nobody in particular: a bundle may come without users, and must answer a stranger.
        if not retriever.retrieve_features({}, [], scenario, _WARM_K):
            raise ArtifactError(
                f"scenario {scenario} of bundle {retriever.manifest.bundle_id[:12]} has no items "
                "for a user without features",
                hint="do not serve it; look at its index in the report",
            )
    return retriever


def _answers(directory: Path) -> bool:
    try:
        _open(directory)
    except ArtifactError:
        return False  # damaged since it was swapped in: it is copied again
    return True


def _served(root: Path) -> Path | None:
    """Return the directory that is served; None when there is none yet.

    Raises:
        ConfigError: ``current`` is something that was not made here.
    """
    link = root / CURRENT
    if not link.is_symlink():
        if link.exists():
            raise ConfigError(
                f"{link} is no link, so it is not replaced",
                hint="give --to a directory of its own, or move this one away yourself",
            )
        return None
    return root / link.readlink().name


def _point(link: Path, target: Path) -> None:
    """Move a link in one step: whoever opens it finds the old release or the new one."""
    fresh = link.with_name(f".{link.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target.name)
    fresh.replace(link)


def _remove_older(root: Path) -> None:
    kept = {
        (root / name).readlink().name for name in (CURRENT, PREVIOUS) if (root / name).is_symlink()
    }
    for path in root.iterdir():
        if _BUNDLE_ID.fullmatch(path.name) and path.name not in kept:
            shutil.rmtree(path)


def _told(bundle: Bundle) -> str:
    manifest = bundle.manifest
    return (
        f"serving bundle {manifest.bundle_id[:12]} of {manifest.lineage.logical_date} "
        f"({len(manifest.scenarios)} scenarios)"
    )
