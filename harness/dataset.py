"""A task's splits from the hub, through `datasets`: the columns asked for, labels by name, the commit they came from.

`datasets` alone would retry for half a minute where there is no network, and without network takes whatever revision
is in its cache. Here one short request finds the commit first, and a cached copy serves only the revision asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.columns import flatten
from harness.errors import ConfigError, DataError, unknown
from harness.files import Table, roles
from harness.schema import TaskConfig
from harness.snapshot import STRANGE, said

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

TIMEOUT_SECONDS = 10.0


def fetch(spec: TaskConfig) -> tuple[str, dict[str, Table]]:
    """Where the data came from (dataset, configuration, commit), and each split's rows.

    Raises:
        DataError: the hub cannot give the dataset (two lines, with both remedies), or it lacks a split, a column or
            the task's labels.
        ConfigError: the task names no dataset of the hub.
    """
    hub = spec.hub
    if hub.id is None:
        raise ConfigError(f"task {spec.name} has no dataset on the hub (task.hub.id=null); give data.root=DIR")
    found = _load(spec, hub.id)
    source = f"{hub.id} {hub.config or 'default'}"
    missing = [split for split in hub.splits.values() if split not in found]
    if missing:
        raise DataError(f"{source}: {unknown('split', missing[0], found)}. The task's YAML names it (task.hub.splits)")
    tables = {ours: _table(spec, f"{source} {theirs}", found[theirs]) for ours, theirs in hub.splits.items()}
    files = next(iter(found.values())).cache_files
    # The cache keeps every commit's copy in a folder of that name.
    commit = Path(files[0]["filename"]).parent.name if files else "unknown"
    return f"hub {source} at {commit}", tables


def _load(spec: TaskConfig, name: str) -> DatasetDict:
    """All splits of the dataset's configuration, of the commit asked for; from the cache where the hub is away."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.hf_api import HfApi
    from huggingface_hub.utils import httpx

    if spec.hub.revision is not None and (kept := _cached(spec, name)):
        return kept
    try:
        commit = HfApi().dataset_info(name, revision=spec.hub.revision, timeout=TIMEOUT_SECONDS).sha
    except RepositoryNotFoundError as error:
        raise _refused(spec, "no dataset of that name, or none without `hf auth login`") from error
    except RevisionNotFoundError as error:
        raise _refused(spec, "the dataset has no such revision") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, *STRANGE) as error:
        if kept := _cached(spec, name):
            return kept
        raise _refused(spec, said(error)) from error
    try:
        return load_dataset(name, spec.hub.config, revision=commit)
    except (DatasetsError, HfHubHTTPError, httpx.HTTPError, OSError, ValueError, RuntimeError) as error:
        raise _refused(spec, error) from error


def _cached(spec: TaskConfig, name: str) -> DatasetDict | None:
    """The copy that an earlier fetch left in the cache: of the pinned commit, or else the latest one."""
    from datasets.packaged_modules.cache.cache import Cache

    revision = spec.hub.revision
    at = {"version": "auto", "hash": "auto"} if revision is None else {"version": "0.0.0", "hash": revision}
    try:
        builder = Cache(repo_id=name, dataset_name=name.split("/")[-1], config_name=spec.hub.config, **at)
        builder.download_and_prepare()
        return builder.as_dataset()
    except (ValueError, OSError):
        return None


def _refused(spec: TaskConfig, reason: Exception | str) -> DataError:
    """Two lines: what the hub was asked and why it did not give it; what to do about it."""
    lines = str(reason).strip().splitlines() or [type(reason).__name__]
    pinned = f" at {spec.hub.revision}" if spec.hub.revision else ""
    files = " and ".join(f"DIR/{spec.folder}/{name}" for name in spec.files.values())
    return DataError(
        f"{spec.name}: the hub cannot give {spec.hub.id} {spec.hub.config or ''}{pinned} ({lines[0][:200]})\n"
        f"Either give a directory with {files}: data.root=DIR, or run once while online "
        "(or with HF_ENDPOINT=URL of a mirror); the cache serves it from then on"
    )


def _table(spec: TaskConfig, source: str, rows: Dataset) -> Table:
    """The columns of one split; class labels by their names, so that the hub's order cannot shift ours."""
    hub = spec.hub
    if spec.shape != "plain":
        return _objects(spec, source, rows)
    wanted = roles(hub.text, hub.text_pair, hub.target)
    for role, name in wanted.items():
        if name not in rows.column_names:
            where = f"The task's YAML names it (task.hub.{role})"
            raise DataError(f"{source}: {unknown('column', name, rows.column_names)}. {where}")
    content = rows.select_columns(list(wanted.values())).to_dict()
    columns = {role: content[name] for role, name in wanted.items()}
    names = getattr(rows.features[hub.target], "names", None)
    if names is not None and spec.nature == "class":
        if sorted(names) != sorted(spec.labels):
            ours = ", ".join(spec.labels)
            raise DataError(f"{source}: its labels are {', '.join(names)}; those of task {spec.name} are {ours}")
        # A hidden label is -1 on the hub; it stays a number here, and no label.
        columns["target"] = [names[at] if 0 <= at < len(names) else at for at in columns["target"]]
    return Table(source, ", row ", range(len(rows)), wanted, columns)


def _objects(spec: TaskConfig, source: str, rows: Dataset) -> Table:
    """One split of a shape that reads whole objects; a class label by its name."""
    names = getattr(rows.features.get("label"), "names", None)
    found = [dict(row) for row in rows]
    for row in found:
        if names is not None and 0 <= row["label"] < len(names):
            row["label"] = names[row["label"]]
    return flatten(spec, source, ", row ", enumerate(found))
