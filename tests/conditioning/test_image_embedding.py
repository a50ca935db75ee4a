"""The embedding of a picture: of a clip's own frame in training, of a picture or by the prior in sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinolab.autoencoders import ImageAutoencoder, ImageConfig
from kinolab.conditioning import Setting, of_examples, of_requests, request_draws
from kinolab.conditioning.image_embedding import ImageEmbedding, ImageEmbeddingConfig
from kinolab.conditioning.text import TextEmbedding
from kinolab.conditioning.vision.contrastive import Contrastive, ContrastiveConfig, TextImage, TextImageConfig
from kinolab.conditioning.vision.prior import Prior, PriorConfig
from kinolab.contracts.conditions import Conditions, Port
from kinolab.contracts.examples import Example
from kinolab.contracts.request import Request
from kinolab.denoisers.base import DenoiserSpec
from kinolab.errors import InputError
from tests.closeness import assert_close, assert_same, differs

SMALL = TextImageConfig(
    pooled_dim=6, embedding=8, size=16, widths=(8, 8), groups=4, prior=PriorConfig(width=16, depth=2)
)
ONE = DenoiserSpec(4, False, text_dim=5, more=(Port("image_embedding", "vector", 3),))


def embed(prompts: Sequence[str]) -> TextEmbedding:
    states = torch.stack([torch.full((2, 5), float(len(prompt))) for prompt in prompts])
    return TextEmbedding(states, torch.ones(len(prompts), 2, dtype=torch.bool), states[:, 0])


def look(pictures: Tensor) -> Tensor:
    return pictures.mean((2, 3))[:, None]


def imagine(prompts: Sequence[str], sources: Sequence[torch.Generator]) -> Tensor:
    return torch.stack([len(p) + torch.rand(3, generator=g) for p, g in zip(prompts, sources, strict=True)])


def setting(**changes: Any) -> Setting:
    torch.manual_seed(0)
    pixels = ImageConfig(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4, mid_block_attention=False)
    made = Setting(
        ONE, ImageAutoencoder(pixels).eval(), torch.device("cpu"), embed, look, imagine, frames=2, size=(8, 8)
    )
    return replace(made, **changes)


def told(*requests: Request, **values: Any) -> Conditions:
    config = ImageEmbeddingConfig(**values)
    return of_requests(requests, setting(settings={"image_embedding": config}))


def test_a_prompt_is_the_priors_embedding_and_its_words_fall() -> None:
    picture = torch.rand(3, 8, 8)
    requests = (
        Request("a ball", seed=1), Request("two boxes", seed=2, conditions={"image_embedding": picture}), Request(),
    )  # fmt: skip
    found = told(*requests)
    value, null = found.tensor("image_embedding"), found.null_of("image_embedding")
    assert value is not None and null is not None and null.tolist() == [False, False, True]
    draws = request_draws(requests)("image_embedding prior")
    assert_close(value[0], imagine(["a ball"], draws[:1])[0])
    assert_close(value[1], picture.mean((1, 2)))
    text_null = found.null_of("text")
    # Of a picture the words stay; of nothing at all there are none.
    assert text_null is not None and text_null.tolist() == [True, False, True]
    alone = told(Request("a ball", seed=1)).tensor("image_embedding")
    assert alone is not None
    assert_same(alone[0], value[0])


def test_words_may_stay_or_be_all() -> None:
    both, words = (told(Request("a ball", seed=1), prompt=way) for way in ("both", "words"))
    for found, is_null in ((both, False), (words, True)):
        null = found.null_of("image_embedding")
        assert (null is not None and bool(null.all())) == is_null
        assert found.null_of("text") is None
    with pytest.raises(InputError, match="negative prompt is told in words"):
        told(Request("a ball", negative="a box"))
    assert told(Request("a ball", negative="a box"), prompt="both").null_of("text") is None


@pytest.mark.parametrize(("frame", "expected"), [("first", {0}), ("any", {0, 1, 2, 3, 4})])
def test_training_looks_at_a_frame_of_the_clip_itself(frame: Any, expected: set[int]) -> None:
    clip = torch.arange(5.0).view(1, 5, 1, 1).expand(3, 5, 8, 8) / 5
    examples = [Example(clip, 8.0, None, None, "x", (0.0, 1.0))] * 32
    ours = setting(settings={"image_embedding": ImageEmbeddingConfig(frame=frame)})
    draws = lambda purpose: [torch.Generator().manual_seed(k) for k in range(32)]  # noqa: E731
    found = of_examples(examples, ours, draws)
    value = found.tensor("image_embedding")
    assert value is not None and {round(float(v) * 5) for v in value[:, 0]} == expected
    assert found.null_of("image_embedding") is None
    text_null = found.null_of("text")
    assert text_null is not None and bool(text_null.all())  # clips without captions are told no words


def test_cached_latents_are_decoded_one_frame_at_a_time() -> None:
    ours = setting(settings={"image_embedding": ImageEmbeddingConfig(frame="first")})
    latents = torch.randn(4, 3, 4, 4)
    example = Example(latents, 8.0, None, None, "x", (0.0, 1.0), encoded=True)
    with torch.no_grad():
        frame = ours.autoencoder.decode(latents[None, :, :1]).clamp(-1, 1)[:, :, 0]
    found = ImageEmbedding(ours.settings["image_embedding"]).shown([example], ours, lambda _: [torch.Generator()])
    assert_close(found[0], frame[0])


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(InputError, match="nothing makes it: set image_encoder"):
        of_requests([Request(conditions={"image_embedding": torch.rand(3, 8, 8)})], setting(look=None, imagine=None))
    wide = DenoiserSpec(4, False, text_dim=5, more=(Port("image_embedding", "vector", 7),))
    with pytest.raises(InputError, match="takes 7 numbers and the image encoder gives 3"):
        of_requests([Request("a ball")], setting(spec=wide))
    with pytest.raises(InputError, match=r"no embedding\.yaml inside"):
        _ = Contrastive(ContrastiveConfig(folder=Path("nowhere"))).dim


def test_the_loss_is_cross_entropy_both_ways_and_equal_captions_share() -> None:
    torch.manual_seed(0)
    joint = TextImage(SMALL)
    pictures, pooled = torch.rand(3, 3, 16, 16) * 2 - 1, torch.randn(3, 6)
    pooled[2] = pooled[0]
    same = torch.tensor([[True, False, True], [False, True, False], [True, False, True]])
    p, t = (F.normalize(x, dim=1) for x in (joint.pictures(pictures), joint.of_texts(pooled)))
    logits = joint.log_scale.exp() * (p @ t.T)
    expected = torch.zeros(())
    for table in (logits, logits.T):
        logp = table.log_softmax(1)
        expected = expected - (logp[0, [0, 2]].mean() + logp[1, 1] + logp[2, [0, 2]].mean()) / 6
    assert_close(joint(pictures, pooled, same), expected)


def test_the_prior_gives_of_its_candidates_the_closest_and_each_row_by_itself() -> None:
    torch.manual_seed(0)
    prior = Prior(PriorConfig(width=16, depth=1, candidates=3), 8, 6).eval()
    pooled, text = torch.randn(2, 6), F.normalize(torch.randn(2, 8), dim=1) * 8**0.5
    seeds = lambda *numbers: [torch.Generator().manual_seed(n) for n in numbers]  # noqa: E731
    found = prior.sample(pooled, text, seeds(1, 2))
    assert_close(found.square().mean(1), torch.ones(2))
    assert_close(found[1:], prior.sample(pooled[1:], text[1:], seeds(2)))
    one = Prior(PriorConfig(width=16, depth=1, candidates=1), 8, 6).eval()
    one.load_state_dict(prior.state_dict())
    source = torch.Generator().manual_seed(2)
    singles = torch.cat([one.sample(pooled[1:], text[1:], [source]) for _ in range(3)])
    best = int((singles @ text[1]).argmax())
    assert_close(found[1], singles[best])
    assert differs(singles[0], singles[1]).any()


def test_the_priors_loss_is_that_of_the_clean_embedding() -> None:
    torch.manual_seed(0)
    prior = Prior(PriorConfig(width=16, depth=1), 8, 6)
    embedding, pooled, text = torch.randn(2, 8), torch.randn(2, 6), torch.randn(2, 8)
    found = prior.loss(embedding, pooled, text, [torch.Generator().manual_seed(n) for n in (1, 2)])
    source = torch.Generator().manual_seed(1)
    noise, t = torch.randn(8, generator=source), prior.diffusion.draw_times(1, source)
    z = prior.diffusion.q_sample(embedding[:1].view(1, 8, 1, 1, 1), t, noise.view(1, 8, 1, 1, 1))
    guess = prior(z, t, Conditions(pooled=pooled[:1], text=text[:1, None])).flatten()
    assert_close(found[0], (guess - embedding[0]).square().mean())
