"""The one-way head, the pools of series heads, and which heads a model has for a task."""

import pytest
import torch

from rsna_e2e.config import ModelConfig, make_config
from rsna_e2e.core.errors import UsageError
from rsna_e2e.model.heads import N_ATTENTION_HEADS, OneWayHead, SequenceHead, SeriesHead
from rsna_e2e.model.network import JointModel
from rsna_e2e.tasks.ich import ICH
from rsna_e2e.tasks.pe import PE

SAME = {"rtol": 0, "atol": 1e-6}  # float32, the same sums in another order
LENGTHS = torch.tensor([5, 1, 8])
OF_EMBEDDINGS = {"backbone": "none"}


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def _embeddings(width: int) -> torch.Tensor:
    return torch.randn(int(LENGTHS.sum()), width)


def test_the_one_way_head_computes_what_an_lstm_cell_does_slice_after_slice() -> None:
    head = OneWayHead(6, 4, 2)
    embeddings = _embeddings(6)
    cell = torch.nn.LSTMCell(6, 4)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in head.lstm.state_dict().items()})
    expected = []
    for series in embeddings.split(LENGTHS.tolist()):
        h = c = torch.zeros(1, 4)
        for embedding in series:
            h, c = cell(embedding[None], (h, c))
            expected.append(h[0])
    torch.testing.assert_close(head.hidden(embeddings, LENGTHS), torch.stack(expected), **SAME)


def test_later_slices_do_not_reach_earlier_ones_in_the_one_way_head() -> None:
    head, embeddings = OneWayHead(6, 4, 2), _embeddings(6)
    changed = embeddings.clone()
    changed[3] += 1.0  # of the first five
    differs = (head.hidden(embeddings, LENGTHS) != head.hidden(changed, LENGTHS)).any(dim=1)
    assert differs.tolist() == [False] * 3 + [True] * 2 + [False] * 9


def test_the_one_way_head_takes_the_last_state_for_a_series() -> None:
    head = SeriesHead(4, 3, n_slice_labels=1, pool="last")
    hidden = _embeddings(4)
    torch.testing.assert_close(head(hidden, _embeddings(1), LENGTHS), head.linear(hidden[[4, 5, 13]]), **SAME)


def test_attention_gives_each_series_means_weighted_by_its_own_slices() -> None:
    head = SeriesHead(4, 3, n_slice_labels=1, pool="attention")
    hidden = _embeddings(4)
    assert head.queries is not None
    pooled = []
    for series in hidden.split(LENGTHS.tolist()):
        means = []
        for query in head.queries.weight:
            scores = [torch.exp(query @ h).item() for h in series]
            means.append(sum(s * h for s, h in zip(scores, series, strict=True)) / sum(scores))
        pooled.append(torch.cat(means))
    torch.testing.assert_close(head(hidden, _embeddings(1), LENGTHS), head.linear(torch.stack(pooled)), **SAME)


def test_attention_of_one_slice_is_that_slice() -> None:
    head = SeriesHead(4, 3, n_slice_labels=1, pool="attention")
    hidden = torch.randn(1, 4)
    torch.testing.assert_close(
        head(hidden, torch.randn(1, 1), torch.tensor([1])), head.linear(hidden.repeat(1, N_ATTENTION_HEADS)), **SAME
    )


def test_evidence_is_what_positive_slices_show_and_how_positive_they_look() -> None:
    head = SeriesHead(4, 3, n_slice_labels=2, pool="evidence")
    hidden, logits = _embeddings(4), 3 * _embeddings(2)
    pooled = []
    for states, scores in zip(hidden.split(LENGTHS.tolist()), logits.split(LENGTHS.tolist()), strict=True):
        exponentials = scores.exp()
        means = [sum(e * h for e, h in zip(column, states, strict=True)) / column.sum() for column in exponentials.T]
        pooled.append(torch.cat([*means, scores.max(0).values, scores.mean(0), exponentials.mean(0).log()]))
    torch.testing.assert_close(head(hidden, logits, LENGTHS), head.linear(torch.stack(pooled)), rtol=0, atol=1e-5)


def test_evidence_goes_back_to_the_slices_through_their_logits() -> None:
    config = ModelConfig(backbone="none", pool="evidence", sequence_loss_weight=0.0, study_loss_weight=1.0)
    model = JointModel.for_task(config, PE, n_channels=8)
    logits = model.classify(_embeddings(8), LENGTHS)
    assert logits.series is not None
    logits.series[:, 2:].sum().backward()
    assert isinstance(model.head, SequenceHead)
    assert model.head.linear.weight.grad is not None
    assert model.head.linear.weight.grad.abs().sum() > 0


def test_a_head_that_starts_as_the_classifier_adds_only_what_its_lstms_say() -> None:
    config = ModelConfig(backbone="none", embedding_width=4, slice_loss_weight=0.5)
    model = JointModel.for_task(config, ICH, n_channels=8)
    model.start_head()
    assert isinstance(model.head, SequenceHead)
    with torch.no_grad():
        for layer in (model.head.lstm1, model.head.lstm2, model.head.linear1, model.head.linear2):
            for parameter in layer.parameters():
                parameter.zero_()
    embeddings = _embeddings(8)
    torch.testing.assert_close(
        model.classify(embeddings, LENGTHS).slices, model.classify_slices(embeddings), rtol=0, atol=1e-6
    )


def test_the_names_of_saved_weights_are_those_of_earlier_runs() -> None:
    config = ModelConfig(backbone="none", embedding_width=4, slice_loss_weight=0.5, study_loss_weight=0.5)
    shapes = {
        name: list(tensor.shape) for name, tensor in JointModel.for_task(config, ICH, n_channels=5).state_dict().items()
    }
    assert shapes == {
        "projection.weight": [4, 5],
        "projection.bias": [4],
        "head.lstm1.weight_ih_l0": [16, 12],
        "head.lstm1.weight_hh_l0": [16, 4],
        "head.lstm1.bias_ih_l0": [16],
        "head.lstm1.bias_hh_l0": [16],
        "head.lstm1.weight_ih_l0_reverse": [16, 12],
        "head.lstm1.weight_hh_l0_reverse": [16, 4],
        "head.lstm1.bias_ih_l0_reverse": [16],
        "head.lstm1.bias_hh_l0_reverse": [16],
        "head.lstm2.weight_ih_l0": [16, 8],
        "head.lstm2.weight_hh_l0": [16, 4],
        "head.lstm2.bias_ih_l0": [16],
        "head.lstm2.bias_hh_l0": [16],
        "head.lstm2.weight_ih_l0_reverse": [16, 8],
        "head.lstm2.weight_hh_l0_reverse": [16, 4],
        "head.lstm2.bias_ih_l0_reverse": [16],
        "head.lstm2.bias_hh_l0_reverse": [16],
        "head.linear1.weight": [8, 8],
        "head.linear1.bias": [8],
        "head.linear2.weight": [8, 8],
        "head.linear2.bias": [8],
        "head.linear.weight": [6, 8],
        "head.linear.bias": [6],
        "slice_classifier.weight": [6, 4],
        "slice_classifier.bias": [6],
        "study_head.linear.weight": [6, 16],
        "study_head.linear.bias": [6],
    }


def test_a_task_whose_series_have_labels_has_a_head_for_them_that_obeys_their_tree() -> None:
    model = JointModel.for_task(ModelConfig(backbone="none"), PE, n_channels=8)
    assert model.study_head is not None
    assert model.study_head.linear.out_features == 3 + 2 + 3 + 3  # branches of the tree
    assert model.n_series_labels == 9
    logits = model.classify(50 * _embeddings(8), LENGTHS)
    assert logits.slices.shape == (14, 1)
    assert logits.series is not None
    of = dict(zip(PE.series.names, logits.series.sigmoid().T, strict=True))
    roots = [of[name] for name in ("negative_exam_for_pe", "indeterminate", "rv_lv_ratio_gte_1", "rv_lv_ratio_lt_1")]
    torch.testing.assert_close(sum(roots), torch.ones(3), **SAME)


def test_other_tasks_have_a_series_head_where_it_has_a_weight_in_the_loss() -> None:
    models = [
        JointModel.for_task(ModelConfig(backbone="none", study_loss_weight=weight), ICH, n_channels=8)
        for weight in (0.0, 0.5)
    ]
    assert models[0].study_head is None
    assert models[1].study_head is not None
    assert models[1].n_series_labels == 6
    assert models[1].classify(_embeddings(8), LENGTHS).series.shape == (3, 6)


@pytest.mark.parametrize("head", ["lstm", "one_way"])
def test_every_head_learns_from_stored_embeddings(head: str) -> None:
    config = ModelConfig.model_validate(OF_EMBEDDINGS | {"head": head, "study_loss_weight": 1.0, "head_width": 64})
    model = JointModel.for_task(config, PE, n_channels=8)
    logits = model(_embeddings(8)[:, :, None, None], LENGTHS)
    assert logits.series is not None
    (logits.slices.sum() + logits.series.sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert isinstance(model.head, OneWayHead if head == "one_way" else SequenceHead)
    assert head != "one_way" or model.head.lstm.hidden_size == 64


def test_a_classifier_of_single_slices_has_no_series_head() -> None:
    model = JointModel.for_task(ModelConfig(backbone="none", head="none", slice_loss_weight=1.0), PE, n_channels=8)
    assert model.study_head is None
    assert model.classify(_embeddings(8), LENGTHS).series is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"head_width": 32}, "head_width is of the head one_way"),
        ({"pool": "attention", "head": "one_way"}, "pool attention is over the states of the head lstm"),
        ({"pool": "evidence", "head": "one_way"}, "pool evidence is over the states of the head lstm"),
        ({"padding": "left", "head": "one_way"}, "padding left is of the head lstm"),
        ({"sequence_loss_weight": 0.0}, "nothing trains the recurrent head"),
    ],
)
def test_settings_of_heads_that_contradict_each_other_are_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=f"^model: .*{said}"):
        make_config(ModelConfig, OF_EMBEDDINGS | values, name="model")


def test_backbones_of_one_channel_give_the_widths_of_the_published_embeddings() -> None:
    """Those of EC601 (RSNA-STR PE 2020), side by side."""
    widths = []
    for name in ("efficientnet_b0", "resnext50_32x4d"):
        with torch.device("meta"):
            model = JointModel(ModelConfig(backbone=name), n_channels=1, n_labels=1)
            assert model.embed(torch.empty(2, 1, 224, 224)).shape == (2, model.n_features)
        widths.append(model.n_features)
    assert widths == [1280, 2048]
    assert sum(widths) == 3328
