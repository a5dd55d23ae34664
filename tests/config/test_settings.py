"""Whatever is written for a setting, by --set or in a file: a configuration, or one line that names the setting."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml

from rsna_e2e.config import Frozen, RunConfig, TwoStageConfig, load_config, load_two_stage, make_config
from rsna_e2e.config.limits import MOST_MEMBERS, MOST_TIMES
from rsna_e2e.config.two_stage import MOST_EMBEDDED
from rsna_e2e.core.errors import BadInputError, RsnaError, UsageError
from rsna_e2e.core.plain_yaml import MOST_BYTES, parse_yaml
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.ich import ICH

NASTY = (
    *("2001-99-99", "2001-01-01", "!!int x", "!!bool x", "!!float ''", "!!timestamp x", "!!binary //", "!!set {a, b}"),
    *("!!python/object/apply:os.system [true]", "!<x> 1", "=", "<<", "!!map [1]", "!!omap [a: 1]", "0x_", "1:99:99"),
    *(
        "[" * 100,
        "[" * 15 + "]" * 15,
        "{a: " * 40 + "1" + "}" * 40,
        "- " * 900,
        "9" * 5000,
        "9" * 4000,
        "-" + "9" * 400,
    ),
    *("&a [*a]", "&a {b: *a}", "*x", "{<<: *x}", "&a {<<: *a}", "{a: 1, a: 2}", "{true: 1, 1: 2}", "{[a, b]: 1}"),
    *("true", "false", "null", "~", "yes", ".nan", ".inf", "-.inf", "1e400", "-1", "0", "1e13", "1.5", "1e-400", "nan"),
    *("'", '"', "|", ">", "@", "`", "%", "\t", "''", '"\\uD800"', '"a\\0b"', '"a\\nb"', "x" * 5000, "../../etc", "[]"),
    *(
        "{}",
        "[[]]",
        "[1, 2]",
        "{a: 1}",
        "{1: 2}",
        "{? null : 1}",
        "local-dir:/tmp",
        "http://127.0.0.1:9/x",
        "/dev/zero",
    ),
)
LONGEST_LINE = 1500
Load = Callable[..., Frozen]


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")


FIELDS = [
    *((load_config, name) for name in leaves(load_config("demo").model_dump(mode="json"))),
    *((load_two_stage, f"two_stage.{name}") for name in load_two_stage("demo").two_stage.model_dump(mode="json")),
]


def said_of(load: Load, *arguments: object) -> str:
    """The one line that refuses something; empty where it was taken."""
    said = ""
    try:
        load(*arguments)
    except RsnaError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < LONGEST_LINE
    return said


@pytest.mark.parametrize(("load", "name"), FIELDS, ids=lambda value: value if isinstance(value, str) else "")
def test_no_value_of_a_setting_is_more_than_one_line(load: Load, name: str) -> None:
    said = [said_of(load, "demo", [f"{name}={text}"]) for text in NASTY]
    assert all(name.split(".")[-1] in line for line in said if line)
    assert sum(map(bool, said)) > len(NASTY) / 2  # none takes them all


@cache
def template(name: str) -> str:
    """A configuration as YAML, with HERE in the place of one value."""
    return yaml.safe_dump(load_config("demo").model_dump(mode="json") | {name: "HERE"})


@pytest.mark.parametrize("text", NASTY, ids=lambda text: text[:20].encode("unicode_escape").decode())
def test_no_value_in_a_file_is_more_than_one_line(text: str, tmp_path: Path) -> None:
    for name in ("seed", "recipe", "image", "model", "epochs"):
        path = tmp_path / f"{name}.yaml"
        path.write_bytes(template(name).replace("HERE", text).encode())
        if line := said_of(load_config, path):
            assert str(path) in line


def numbers(schema: Any, name: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number in a JSON schema, with the name of the field it is in."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield name, schema
        for key, value in schema.items():
            inside = key if key not in ("properties", "$defs", "items", "anyOf", "additionalProperties") else name
            yield from numbers(value, inside)
    elif isinstance(schema, list):
        for value in schema:
            yield from numbers(value, name)


@pytest.mark.parametrize("kind", [RunConfig, TwoStageConfig])
def test_every_number_has_bounds(kind: type[Frozen]) -> None:
    found = list(numbers(kind.model_json_schema()))
    assert len(found) > 30
    for name, schema in found:
        assert {"minimum", "exclusiveMinimum"} & set(schema), name
        assert {"maximum", "exclusiveMaximum"} & set(schema), name


def is_number(load: Load, name: str) -> bool:
    value = load("demo").model_dump(mode="json")
    for part in name.split("."):
        value = value[part]
    return isinstance(value, int | float) and not isinstance(value, bool)


@pytest.mark.parametrize("load", [load_config, load_two_stage])
def test_a_boolean_is_no_number(load: Load) -> None:
    names = [name for of, name in FIELDS if of is load and is_number(of, name)]
    assert names
    for name in names:
        with pytest.raises(UsageError, match=rf"{name.split('.')[-1]}.* (not a number|not True)"):
            load("demo", [f"{name}=true"])


@pytest.mark.parametrize(
    "override",
    [
        *("image.size=100000000", "image.size=16384", "loader.threads=100000", "cpu_threads=1000000"),
        *("model.embedding_width=1000000000", "loader.prefetch_batches=100000", "distributed.bucket_mib=10000000"),
        *("image.supersample=1000", "epochs=1000000000001", "image.size_from_epoch={1: 100000}"),
        *("optimizer.clip_norm=1e39", f"optimizer.step_fractions=[{'0,' * (MOST_MEMBERS + 1)}]"),
    ],
)
def test_what_would_be_allocated_is_bounded(override: str) -> None:
    with pytest.raises(UsageError, match=override.split("=")[0].replace(".", r"\.")):
        load_config("demo", [override])


def test_what_is_sensible_is_taken() -> None:
    sensible = ["image.size=4096", "loader.threads=256", "cpu_threads=512", "model.embedding_width=8192"]
    sensible += [f"epochs={MOST_TIMES}", "chunk=1", "graph_slices=auto", "seed=0x10", "optimizer.learning_rate=1e-3"]
    sensible += ["image.size_from_epoch={1: 96, 5: 112}", 'recipe="2019-01-01"', "validation_fold=null", "compile=yes"]
    config = load_config("demo", sensible)
    assert (config.image.size, config.seed, config.optimizer.learning_rate) == (4096, 16, 0.001)
    assert load_config("demo", ["recipe=2019-01-01"]).recipe == "2019-01-01"  # settings have no dates


def test_a_plan_with_a_head_for_each_of_endless_epochs_is_refused() -> None:
    epochs = f"images.slice_phase.epochs={MOST_EMBEDDED + 1}"
    with pytest.raises(UsageError, match="every epoch gets a head"):
        load_two_stage("demo", [epochs])
    load_two_stage("demo", [epochs, "two_stage.image_epochs=[1, 1001]"])


def test_aliases_are_taken_where_they_save_words() -> None:
    text = "a: &adam {name: adam, rate: 1}\nb: *adam\nc: {<<: *adam, rate: 2}\n"
    assert parse_yaml(text)["c"] == {"name": "adam", "rate": 2}


def bomb(depth: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    return "\n".join(lines + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth)])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (bomb(10).encode(), "expand to too many values"),
        (b"recipe: a\nrecipe: b\n", "'recipe' appears twice in line 2"),
        (b"\0\0\0", "not a YAML configuration"),
        ("recipe: x".encode("utf-16"), "not a YAML configuration"),
        (b"#" * (MOST_BYTES + 1), "more than 1,048,576 bytes"),
        (b"", "but NoneType"),
        (b"1" + b":59" * 3000, "more than 4096 characters"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_file_that_is_no_configuration_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/dev/zero", path)])
def test_what_is_no_file_is_no_recipe(tmp_path: Path, make: Callable[[str], None]) -> None:
    make(str(tmp_path / "c.yaml"))
    with pytest.raises(UsageError, match="unknown recipe"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        *("{checkpoint_path: x}", "{pretrained: true}", "{pretrained_cfg: {url: x}}", "{cache_dir: /tmp}"),
        *("{pretrained_cfg_overlay: {file: x}}", "{in_chans: 4}", "{num_classes: 4}", "{features_only: true}"),
        *("{device: meta}", "{block: x}"),
        *("{channels: [1000000, 1, 1, 1]}", "{channels: [[[1]]]}", "{drop_path_rate: 1.0}", "{drop_path_rate: true}"),
        *("{global_pool: /etc/passwd}", "{layers: [513]}", "{qkv_bias: 1}", "{mlp_ratio: .inf}", "{stem_width: -1}"),
        "{stem_width: {a: 1}}",
    ],
)
def test_arguments_that_do_not_shape_a_backbone_are_refused(arguments: str) -> None:
    with pytest.raises(UsageError, match=r"model\.backbone_arguments: .*" + arguments[1:].split(":")[0]):
        load_config("demo", [f"model.backbone_arguments={arguments}"])


@pytest.mark.parametrize(
    "name", ["local-dir:/tmp", "hf-hub:timm/resnet10t", "hf_hub:a", "timm/resnet10t", "a:b", "../x"]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"model\.backbone: must be the name of a model in timm"):
        load_config("demo", [f"model.backbone={name}"])


def model_of(backbone: str, arguments: str) -> JointModel:
    config = load_config("demo", [f"model.backbone={backbone}", f"model.backbone_arguments={arguments}"])
    return JointModel.for_task(config.model, ICH)


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("resnet10t", "{channels: [16, 16, 16, 16], stem_width: 8, drop_path_rate: 0.1, act_layer: silu}"),
        ("resnet10t", "{layers: [1, 1, 1, 1], norm_layer: groupnorm1, zero_init_last: false, global_pool: max}"),
        ("test_convnext", "{dims: [8, 8, 8, 8], depths: [1, 1, 1, 1], ls_init_value: 1.0e-6, conv_mlp: true}"),
        ("test_vit", "{img_size: 32, patch_size: 16, embed_dim: 64, depth: 2, num_heads: 2, attn_drop_rate: null}"),
    ],
)
def test_arguments_that_shape_a_backbone_reach_it(backbone: str, arguments: str) -> None:
    assert model_of(backbone, arguments).n_features > 0


def test_what_is_asked_of_arguments_draws_nothing() -> None:
    torch.manual_seed(7)
    ours = model_of("resnet10t", "{channels: [16, 16, 16, 16], stem_width: 8}").backbone
    torch.manual_seed(7)
    theirs = timm.create_model("resnet10t", num_classes=0, channels=(16, 16, 16, 16), stem_width=8)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ("resnet10t", "{layers: [50, 50], channels: [8192, 8192]}", r"a model of .* weights; 1e\+10 are the most"),
        ("resnet10t", "{act_layer: nonsense}", "do not suit resnet10t"),
        ("test_vit", "{num_heads: 0}", "do not suit test_vit"),
        ("test_vit", "{patch_size: 0}", "do not suit test_vit"),
        ("test_resnet", "{channels: []}", "do not suit test_resnet"),
        ("resnet10t.nobody", "{}", "model.backbone: "),
    ],
)
def test_arguments_that_do_not_go_together_are_one_line(backbone: str, arguments: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        model_of(backbone, arguments)
    assert "\n" not in str(error.value)


def test_a_configuration_made_of_foreign_words_is_refused_by_name() -> None:
    with pytest.raises(BadInputError, match="the file: epochs: Field required"):
        make_config(RunConfig, {"recipe": "x"}, name="the file", wrong=BadInputError)
