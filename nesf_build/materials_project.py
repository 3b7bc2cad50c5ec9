"""Datasets from the Materials Project: query by mp-api, conventional cells, selection, split.

The database has grown since the paper, so a rebuilt `lcs6` holds more materials than the release,
and other splits.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from tqdm import tqdm

from nesf.crystals import Crystals
from nesf.data.dataset import Dataset, default_data_dir, needs_extra, save_dataset
from nesf.data.files import Entry, Skipped, usable_entries
from nesf.data.official import check_new_name, packed_folder
from nesf.outputs import PACKED, WriteOptions, check
from nesf_build.rules import Rules, select, split_by_rules
from nesf_io.errors import ConfigError, DataError, NesfError
from nesf_io.parsers import reason_against

if TYPE_CHECKING:
    from pymatgen.core import Structure

CHUNK = 500  # documents a request: a thousand structures can take longer than the client's 20 s
FIELDS = ["material_id", "structure"]
STATUS = "https://status.materialsproject.org"
KEY_HELP = "get a key at https://materialsproject.org/api and give it by --api-key, MP_API_KEY, or PMG_MAPI_KEY in ~/.config/.pmgrc.yaml"


def build(
    rules: Rules,
    *,
    name: str,
    api_key: str | None = None,
    endpoint: str | None = None,
    data_dir: Path | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    **options: Unpack[WriteOptions],
) -> Path:
    """Query the Materials Project, select, split, and write a packed dataset (Section 4.1).

    Args:
        rules: what to select, and how to split (`nesf_build.rules.load_rules`).
        api_key: 32 characters; None, as for `endpoint`, for mp-api's usual configuration.
        skip_bad: leave out documents that cannot be used and list them in `dataset.json`, instead
            of raising an error.
        options: `replace` a dataset of this name; `progress`.

    Returns:
        The packed folder; with folds, the folder that holds fold-0, fold-1 and so on.

    Raises:
        ConfigError: no key or one of the wrong form, or a name that is taken or is no folder name.
        DataError: a document that cannot be used, or too few materials left to split.
        NesfError: mp-api is not installed; or the interface refuses the key, is unreachable, or
            answers something else than it should.
    """
    check_new_name(name)
    folder = Path(data_dir or default_data_dir()) / name
    replace, progress = options.get("replace", False), options.get("progress", True)
    check(folder, replace=replace, own=rf"(fold-\d+/)?{PACKED}")
    query = prefilter(rules)
    with _client(api_key, endpoint, progress) as client:
        documents = _search(client, query)
        reference = _reference(client, rules)
        database = client.db_version
    crystals, skipped = _conventional_cells(documents, skip_bad, progress)
    selected, counts = select(crystals, rules, reference)
    provenance = _source(database, query) | {
        "rules": rules.to_dict(),
        "documents": len(documents),
        "skipped": [asdict(s) for s in skipped],
        "selection": [asdict(c) for c in counts],
        "seed": seed,
    }
    for fold, parts in enumerate(split_by_rules(selected.in_standard_setting(), rules, seed=seed)):
        k = None if rules.folds is None else fold
        place = packed_folder(name, k, folder.parent)
        save_dataset(Dataset(name, parts, k, provenance), place, replace=replace)
    return folder


def _source(database: str, query: dict[str, Any]) -> dict[str, Any]:
    """Return where and when crystals were queried, for a dataset's provenance."""
    return {
        "source": "the Materials Project (https://materialsproject.org), final structures, without GNoME's",
        "licence": "CC BY 4.0",
        "citation": "A. Jain et al., APL Materials 1, 011002 (2013)",
        "database_version": database,
        "query": query,
        "queried_on": datetime.now(UTC).date().isoformat(),
        "versions": {p: version(p) for p in ("mp-api", "pymatgen", "pymatgen-core", "spglib")},
        "cell": "conventional standard",
    }


def prefilter(rules: Rules) -> dict[str, Any]:
    """Return the query for what the rules select: parameters of the route `materials/summary`.

    It is never stricter than the rules, which are applied to what comes back. The cells that the
    Materials Project stores are primitive: they have at most the sites and the volume of the
    conventional ones.
    """
    # 2023's GNoME structures (CC BY-NC) came after the paper
    query: dict[str, Any] = {"deprecated": False, "batch_id_not_eq": "gnome_r2scan_statics"}
    if rules.anonymous_formulas is not None:
        query["formula"] = ",".join(rules.anonymous_formulas)
    if rules.crystal_system is not None:
        query["crystal_system"] = rules.crystal_system.capitalize()
    sites = [n for n in (rules.max_sites, rules.n_sites) if n is not None]
    if sites:
        query |= {"nsites_min": 1, "nsites_max": min(sites)}
    if rules.max_length is not None:
        query |= {"volume_min": 0, "volume_max": rules.max_length**3}
    return query


@contextmanager
def _client(api_key: str | None, endpoint: str | None, progress: bool) -> Iterator[Any]:
    """Open mp-api's client; its errors and malformed answers become one sentence."""
    with needs_extra("materials-project"):
        from mp_api.client import MPRester
        from mp_api.client.core.exceptions import MPRestError, MPRestWarning
        from mp_api.client.core.utils import validate_api_key
        from requests.exceptions import RequestException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MPRestWarning)
        try:
            key = validate_api_key(api_key)
        except MPRestError:
            raise ConfigError(
                f"the key for the Materials Project is not one (keys have 32 characters); {KEY_HELP}"
            ) from None
        if not key:
            raise ConfigError(f"no key for the Materials Project; {KEY_HELP}")
        try:
            with MPRester(
                key, endpoint=endpoint, use_document_model=False, mute_progress_bars=not progress
            ) as client:
                if not client.db_version:
                    raise NesfError(
                        f"{client.endpoint}: the Materials Project refuses this client; see {STATUS}"
                    )
                yield client
        # not JSON, no `data` or `meta`, or of another type
        except (
            MPRestError,
            RequestException,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            if re.search(r"status code (401|403)\b", str(error)):
                raise NesfError(f"the Materials Project refuses the key; {KEY_HELP}") from None
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise NesfError(
                f"the Materials Project does not answer as it should ({reason}); try again later, see {STATUS}"
            ) from None


def _search(client: Any, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Return all documents of a query, page by page."""
    route = client.materials.summary
    total = route.count(dict(query))
    documents = route.search(
        # without any criterion the client would read the open-data buckets instead of the interface
        deprecated=False,
        include_gnome=False,
        formula=query.get("formula"),
        crystal_system=query.get("crystal_system"),
        num_sites=(query["nsites_min"], query["nsites_max"]) if "nsites_max" in query else None,
        volume=(query["volume_min"], query["volume_max"]) if "volume_max" in query else None,
        fields=FIELDS,
        chunk_size=CHUNK,
        # unsorted, a material can be in two pages while another is in none
        _sort_fields="material_id",
    )
    if not isinstance(documents, list) or len(documents) != total:
        raise NesfError(
            f"the Materials Project announced {total} materials and sent {len(documents)}; try again"
        )
    return documents


def _reference(client: Any, rules: Rules) -> np.ndarray | None:
    """Return the lattice vectors of the reference's conventional standard cell, [3, 3] in Å."""
    if rules.reference_id is None:
        return None
    documents = client.materials.summary.search(material_ids=rules.reference_id, fields=FIELDS)
    if not documents:
        raise DataError(
            f"{rules.reference_id}: the reference_id of the rules is not in the Materials Project; give another"
        )
    try:
        return _conventional(documents[0])[0].lattice.matrix
    except DataError as error:
        raise DataError(f"{rules.reference_id}: {error}") from None


def _conventional(document: Any) -> tuple[Structure, str]:
    """Return a document's conventional cell and its crystal system; a DataError says why not."""
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    try:
        structure = Structure.from_dict(document["structure"])
        if reason := reason_against(structure):
            raise DataError(reason)
        for key in list(structure.site_properties):  # magnetic moments would count in the symmetry
            structure.remove_site_property(key)
        structure.remove_oxidation_states()
        analyzer = SpacegroupAnalyzer(structure)
        conventional, system = (
            analyzer.get_conventional_standard_structure(),
            analyzer.get_crystal_system(),
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"the document is malformed ({type(error).__name__}: {error})") from None
    if reason := reason_against(conventional):
        raise DataError(reason)
    return conventional, system


def _conventional_cells(
    documents: list[Any], skip_bad: bool, progress: bool
) -> tuple[Crystals, list[Skipped]]:
    """Return the cells with the property `crystal_system`, and what was left out."""
    entries = []
    for number, document in enumerate(documents):
        identifier = str(document.get("material_id", "")) if isinstance(document, dict) else ""
        entries.append(
            Entry(identifier or f"document {number}", identifier, partial(_conventional, document))
        )
    bar = tqdm(entries, "conventional cells", disable=None if progress else True)
    kept, skipped = usable_entries(bar, lambda entry: entry.read(), skip_bad)
    systems = np.array([system for _, (_, system) in kept], dtype=object)
    return Crystals.from_structures(
        [s for _, (s, _) in kept], [e.identifier for e, _ in kept], {"crystal_system": systems}
    ), skipped
