"""What a denoiser is told: a mapping of three kinds, null row by row and name by name, and checked against ports."""

from __future__ import annotations

import pytest
import torch

from kinolab.contracts.conditions import Conditions, Port, Value, check_conditions
from kinolab.errors import InputError

LATENTS = (2, 4, 3, 8, 8)
SOME = torch.tensor([True, False])
PORTS = {
    port.name: port
    for port in (
        Port("label", "vector", per_image=True),
        Port("text", "tokens", 6, per_image=True),
        Port("given", "field", 4, 2),
        Port("level", "vector"),
        Port("style", "vector", 3),
        Port("control", "field", 5),
    )
}


def everything() -> Conditions:
    return Conditions(
        label=torch.tensor([1, 2]), text=torch.ones(2, 7, 6), text_mask=torch.ones(2, 7, dtype=torch.bool), null=SOME,
        given=torch.zeros(2, 4, 3, 8, 8), mask=torch.ones(2, 2, 3, 8, 8), level=Value("vector", torch.ones(2)),
        control=Value("field", torch.ones(2, 5, 3, 8, 8)),
    )  # fmt: skip


def test_conditions_are_a_mapping_of_kinds_with_attributes_of_tensors() -> None:
    told = everything()
    assert {name: v.kind for name, v in told.items()} == {
        "label": "vector", "text": "tokens", "given": "field", "level": "vector", "control": "field",
    }  # fmt: skip
    assert told.label is told["label"].value and told.mask is told["given"].mask and told.fps is None
    assert told.tensor("level") is told["level"].value and told.tensor("depth") is None
    check_conditions(told, PORTS, LATENTS)


def test_each_condition_has_null_rows_of_its_own() -> None:
    told = everything().with_null(~SOME, ["level"])
    rows = {name: told.null_of(name) for name in ("label", "text", "pooled", "level", "given", "control")}
    assert all(torch.equal(rows[name], SOME) for name in ("label", "text", "pooled"))  # type: ignore[arg-type]
    assert rows["level"] is not None and rows["level"].tolist() == [False, True]
    assert rows["given"] is None and rows["control"] is None
    alone = Conditions(label=torch.tensor([1, 2]), text=torch.ones(2, 7, 6)).with_null(SOME, ["label"])
    assert alone.null is None, "the prompt is still told"
    both = alone.with_null(torch.tensor([True, True]), ["text"]).null
    assert both is not None and both.tolist() == [True, False], "rows that nothing is asked of any more"
    assert told.all_null(2).null_of("level") is rows["level"]
    level = told.all_null(2, names=["level"])
    assert level.null_of("level").all() and torch.equal(level.null_of("label"), SOME)  # type: ignore[union-attr,arg-type]


def test_batches_are_stacked_with_their_null_rows() -> None:
    plain = everything().replace(null=None)
    both = Conditions.cat(plain, plain.all_null(2).with_null(SOME, ["control"]))
    assert both.label is not None and both.label.tolist() == [1, 2, 1, 2]
    assert both.null is not None and both.null.tolist() == [False, False, True, True]
    control = both.null_of("control")
    assert control is not None and control.tolist() == [False, False, True, False]
    check_conditions(both, PORTS, (4, *LATENTS[1:]))
    with pytest.raises(ValueError, match="label is given in one batch"):
        Conditions.cat(plain, plain.replace(label=None))


def test_values_are_changed_and_moved_without_losing_others() -> None:
    told = everything()
    changed = told.replace(label=None, null=None, fps=torch.ones(2), control=None)
    assert set(changed) == {"text", "given", "level", "fps"} and changed.null is None
    assert told.to("meta")["control"].value.is_meta and told.map(torch.clone).null_of("text") is not None
    more = told.told(Conditions(level=Value("vector", torch.zeros(2))))
    assert more["level"].value.sum() == 0 and set(more) == set(told)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Conditions(pooled=torch.ones(2, 3)), "without pooled conditions"),
        (Conditions(label=torch.ones(3)), r"expected label of shape \(2,\), got \(3,\)"),
        (Conditions(text=torch.ones(2, 7, 5)), r"expected text of shape \(2, 7, 6\)"),
        (Conditions(label=torch.ones(2, 2)), r"expected label of shape \(2,\), got \(2, 2\)"),
        (Conditions(label=torch.ones(2, 3), image_frames=1), r"\(2,\) or \(2, 2\), got \(2, 3\)"),
        (Conditions(style=Value("vector", torch.ones(2))), r"expected style of shape \(2, 3\)"),
        (Conditions(control=Value("field", torch.ones(2, 5, 3, 8, 4))), r"control of shape \(2, 5, 3, 8, 8\)"),
        (Conditions(control=Value("tokens", torch.ones(2, 5, 3))), "control is a field, got a tokens"),
        (Conditions(control=Value("field", torch.ones(LATENTS[0], 5, *LATENTS[2:]), SOME)), "control has no mask"),
        (Conditions(null=torch.ones(3)), "null rows"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_port_is_refused(wrong: Conditions, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_conditions(wrong, PORTS, LATENTS)


def test_given_latents_and_their_mask_go_together() -> None:
    with pytest.raises(InputError, match="go together"):
        Conditions(given=torch.zeros(LATENTS))
    with pytest.raises(InputError, match="go together"):
        check_conditions(Conditions.of({"given": Value("field", torch.zeros(LATENTS))}), PORTS, LATENTS)
