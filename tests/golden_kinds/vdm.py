"""Kinds of Video Diffusion Models, by its most used public code."""

from __future__ import annotations

from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.denoisers import Conditions, Vdm
from tests.golden_kinds import Golden, runs


@runs("VdmUnet3D")
def vdm_unet(golden: Golden) -> dict[str, Tensor]:
    """lucidrains' Unet3D, whose focus mask keeps a sample's frames from seeing each other."""
    model = golden.load(focus=True)
    assert isinstance(model, Vdm)
    z, t = golden["x"], golden["time"].float()
    told = Conditions(pooled=golden["cond"]) if "cond" in golden.tensors else Conditions()
    out, null = model(z, t, told), model(z, t, told.all_null(len(z)))
    focus = told.told(Conditions(focus=Value("vector", golden["focus"].float())))
    return {
        "out": out,
        "out_focus": model(z, t, focus),
        "time_rel_pos_bias": model.relative_bias(z.shape[2]),
        "out_null": null,
        "out_scale2": null + 2 * (out - null),
    }
