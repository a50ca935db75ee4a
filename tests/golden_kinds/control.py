"""Kinds of control networks beside a U-Net, through the part that stands beside it in a model."""

from __future__ import annotations

from torch import Tensor

from kinolab.contracts.conditions import Value
from kinolab.contracts.options import ForwardOptions
from kinolab.contracts.reach import Reach, ReachName
from kinolab.denoisers import Conditions, Unet
from kinolab.denoisers.controlnet import ControlNet
from kinolab.models.controlnet import control_part
from kinolab.models.part import WithParts
from tests.golden_kinds import Golden, runs
from tests.golden_kinds.unet import heads


def beside(golden: Golden, unet: Unet, net: ControlNet, *, in_place: bool = False) -> WithParts:
    """The U-Net with the control network at the file's scale."""
    part = control_part(net, unet, port="control", scale=golden.config.get("_scale", 1.0), in_place=in_place)
    return WithParts(unet, {"control": part}).eval()


def outputs(found: dict[int, Tensor], scale: float) -> dict[str, Tensor]:
    """The residuals by the names of the outputs."""
    middle = max(found)
    return {("mid" if number == middle else f"down_{number}"): value * scale for number, value in found.items()}


@runs("CNet")
def controlnet(golden: Golden) -> dict[str, Tensor]:
    """diffusers' ControlNetModel beside its UNet2DConditionModel, on images."""
    unet, net = (golden.load(f"{name}.", **heads(golden.config.get(name, {}))) for name in ("unet", "controlnet"))
    sample, cond, text = golden["sample"][:, :, None], golden["cond"][:, :, None], golden["encoder_hidden_states"]
    t = golden["timestep"].expand(len(sample))
    told = Conditions(text=text)
    found = outputs(net.read(sample, t, told, cond), golden.config.get("_scale", 1.0))
    out = beside(golden, unet, net)(sample, t, hinted(told, cond))
    return {name: value[:, :, 0] for name, value in {**found, "out": out}.items()}


@runs("ControlVideoNet")
def controlvideo(golden: Golden) -> dict[str, Tensor]:
    """ControlVideo's ControlNetModel3D, within each frame, beside its U-Net whose frames read all or the two ends."""
    config, scope = golden.config, {"norm_scope": "clip"}
    unet, net = (golden.load(f"{name}.", **heads(config[name]), **scope) for name in ("unet", "controlnet"))
    sample, cond, t = golden["sample"], golden["cond"], golden["timestep"].expand(len(golden["sample"]))
    told = Conditions(text=golden["encoder_hidden_states"])
    found = outputs(net.read(sample, t, told, cond), config["_scale"])
    found["out_plain"] = unet(sample, t, told, reaching("all"))
    for in_place, end in ((True, ""), (False, "_skips")):
        model = beside(golden, unet, net, in_place=in_place)
        found[f"out{end}"] = model(sample, t, hinted(told, cond), reaching("all"))
        found[f"out_inter{end}"] = model(sample, t, hinted(told, cond), reaching("first_last"))
    return found


def reaching(name: ReachName) -> ForwardOptions:
    """The options of a run whose frames read others."""
    return ForwardOptions(reach=Reach(name))


def hinted(told: Conditions, cond: Tensor) -> Conditions:
    """The conditions with the map among them."""
    return told.told(Conditions.of({"control": Value("field", cond)}))
