from __future__ import annotations

from pathlib import Path

import pytest

from medmm.columns import FieldSpec, ImageSpec
from medmm.errors import ConfigError
from medmm.recipe import cohort_folder, load_recipe

PIPELINES = Path(__file__).parents[1] / "pipelines"

TEXT = """
name: small
question: Is it so?
intended_use: A test.
cohort: ../cohort
outcome: ill
modalities:
  records: {kind: records}
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    return file


def test_a_recipe_names_its_cohort_relative_to_itself(tmp_path):
    file = written(tmp_path, TEXT)
    assert cohort_folder(load_recipe(file), file) == (tmp_path / "../cohort").resolve()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("outcome:", "outcom:", "did you mean 'outcome'"),
        ("name: small", "name: Small Recipe", "name"),
        ("  records: {kind: records}", "  records: {}", "kind"),
        ("outcome: ill", "outcome: ill\nfusion: {kind: concatt}", "concat"),
        (
            "outcome: ill",
            "outcome: ill\nfusion: {kind: concat}",
            "joins several modalities, and there is only",
        ),
        ("outcome: ill", "outcome: ill\nfusion: {kind: token_transformer, heads: 3}", "must divide"),
        ("outcome: ill", "outcome: ill\nfusion: {kind: moe_missing, top: 9}", "cannot be more than"),
        ("outcome: ill", "outcome: ill\nfusion: {kind: film, auxilary: 1}", "did you mean 'auxiliary'"),
        ("outcome: ill", "outcome: ill\nfitting: {epoch: 3}", "did you mean 'epochs'"),
        ("outcome: ill", "outcome: ill\nthreshold: {risk: 0.2, sensitivity: 0.9}", "one of them"),
        ("outcome: ill", "outcome: ill # ? which?", "which?"),
    ],
)
def test_a_mistake_is_named(tmp_path, old, new, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(written(tmp_path, TEXT.replace(old, new)))


def test_a_block_that_the_cohort_lacks_is_named(tmp_path):
    recipe = load_recipe(written(tmp_path, TEXT))
    with pytest.raises(ConfigError, match="no block 'records'; it has ct"):
        recipe.build({"ct": ImageSpec(dir="dicom")})


def test_a_kind_that_nobody_offers_is_named(tmp_path):
    recipe = load_recipe(written(tmp_path, TEXT.replace("kind: records", "kind: record")))
    with pytest.raises(ConfigError, match="did you mean 'records'"):
        recipe.build({"records": {"age": FieldSpec(role="input", kind="number")}})


@pytest.mark.parametrize("folder", sorted(PIPELINES.iterdir()), ids=lambda folder: folder.name)
def test_every_pipeline_builds_on_its_cohort(folder):
    from medmm.cohort.link import declarations
    from medmm.cohort.spec import load_spec
    from medmm.recipe import check_outcome

    recipe = load_recipe(folder)
    spec = load_spec(cohort_folder(recipe, folder))
    check_outcome(recipe, spec)
    assert recipe.name == folder.name
    assert set(recipe.build(dict(declarations(spec)))) == set(recipe.modalities)


def test_the_demo_runs_the_shipped_pipeline():
    from importlib.resources import files

    shipped = load_recipe(PIPELINES / "synthetic_ct").model_dump(exclude={"cohort"})
    demo = Path(str(files("medmm").joinpath("demo_recipe.yaml")))
    assert load_recipe(demo).model_dump(exclude={"cohort"}) == shipped


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("outcome: ill", "outcome: ill\nfitting: {learning_rate: .inf}", "fitting.learning_rate"),
        ("outcome: ill", "outcome: ill\nfitting: {learning_rate: .nan}", "fitting.learning_rate"),
        ("outcome: ill", "outcome: ill\nfitting: {weight_decay: .inf}", "fitting.weight_decay"),
        ("outcome: ill", "outcome: ill\nfitting: {epochs: 1000000000000}", "fitting.epochs"),
        ("outcome: ill", f"outcome: ill\nseed: {2**200}", "seed"),
        ("outcome: ill", "outcome: ill\ncomparison: {resamples: 1000000000}", "comparison.resamples"),
        ("outcome: ill", "outcome: ill\nfusion: {kind: concat, hidden: 1000000000}", "fusion.hidden"),
    ],
)
def test_an_absurd_number_is_named(tmp_path, old, new, said):
    with pytest.raises(ConfigError, match=said):
        load_recipe(
            written(
                tmp_path,
                TEXT.replace(old, new).replace("kind: records}", "kind: records}\n  b: {kind: biomarkers}"),
            )
        )


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("kind: image, shape: [4096, 4096, 4096]", "68,719,476,736 voxels"),
        ("kind: image, shape: [1000000, 8]", r"ct: shape"),
        ("kind: image, shape: [64, 64, 64], encoder: {channels: [1000000]}", "encoder.channels"),
        ("kind: image, shape: [64, 64, 64], encoder: {channels: [8192, 8192]}", "parameters, at most"),
        ("kind: image, shape: [64, 64, 64], spacing_mm: [.inf, 1, 1]", "spacing_mm"),
        ("kind: image, shape: [64, 64, 64], window: [.nan, 1]", "window"),
        ("kind: image, shape: [64, 64, 64], augment: {shift_voxels: 1000000000}", "shift_voxels"),
        ("kind: records, encoder: {hidden: [1000000000]}", "encoder.hidden"),
    ],
)
def test_an_absurd_size_is_refused_before_anything_is_made(tmp_path, block, said):
    recipe = load_recipe(written(tmp_path, TEXT.replace("records: {kind: records}", f"ct: {{{block}}}")))
    declared = FieldSpec(role="input", kind="number")
    known = {"ct": {"age": declared} if "records" in block else ImageSpec(dir="dicom")}
    with pytest.raises(ConfigError, match=said):
        recipe.build(known)


FIELDS = {"age": FieldSpec(role="input", kind="number")}
IMAGE = "{kind: image, shape: [16, 16]}"


@pytest.mark.parametrize(
    ("kind", "blocks", "said"),
    [
        (
            "film",
            {"records": "{kind: records}", "more": "{kind: records}"},
            "needs a modality that gives a feature",
        ),
        ("daft", {"one": IMAGE, "two": IMAGE}, "are all images; add a table"),
        ("tab_cross_attn", {"one": IMAGE, "two": IMAGE}, "one token per field"),
        ("late_mean, weights: {ct: 2}", {"one": IMAGE, "records": "{kind: records}"}, "weighs 'ct', which"),
        ("film", {"one": IMAGE}, "there is only one"),
    ],
)
def test_a_fusion_over_modalities_that_do_not_give_what_it_needs_is_refused(tmp_path, kind, blocks, said):
    listed = "".join(f"\n  {name}: {block}" for name, block in blocks.items())
    text = TEXT.replace("\n  records: {kind: records}", listed) + f"fusion: {{kind: {kind}}}\n"
    declared = {
        name: FIELDS if "records" in block else ImageSpec(dir="dicom") for name, block in blocks.items()
    }
    with pytest.raises(ConfigError, match=said) as refused:
        load_recipe(written(tmp_path, text)).build(declared)
    assert "\n" not in str(refused.value)


def test_every_kind_of_fusion_has_a_block(tmp_path):
    for kind in ("concat", "film", "daft", "tab_cross_attn", "token_transformer", "late_mean", "moe_missing"):
        blocks = f"\n  one: {IMAGE}\n  records: {{kind: records}}"
        text = TEXT.replace("\n  records: {kind: records}", blocks) + f"fusion: {{kind: {kind}}}\n"
        recipe = load_recipe(written(tmp_path, text))
        assert set(recipe.build({"one": ImageSpec(dir="dicom"), "records": FIELDS})) == {"one", "records"}
        assert recipe.fusion.kind == kind
