import pytest
import torch

from circuits.effects.activations import component_means, differences
from circuits.effects.inspection import output_logits, token_lens, token_texts


@pytest.fixture(scope="module")
def between(swept):
    return differences(component_means(swept))


def by_hand(model, write):
    """RMSNorm and unembedding written out."""
    gain = model.ln_final(torch.ones(1, 1, len(write)))[0, 0].detach()
    stream = write / write.square().mean().sqrt()
    return (stream * gain) @ model.W_U.detach()


def writes(model, between, emotion):
    block = model.blocks[1]
    z, post = between.z[emotion, 1], between.post[emotion, 1]
    W_O, W_out = block.attn.W_O.detach(), block.mlp.W_out.detach()
    heads = [z[head] @ W_O[head] for head in range(len(z))]
    return {
        "L1H2": heads[2],
        "L1N7": post[7] * W_out[7],
        "L1.attn": sum(heads),
        "L1.mlp": sum(post[n] * W_out[n] for n in range(len(post))),
    }


def test_tokens_are_the_ends_of_the_logits_of_what_a_part_writes(llama, between):
    names = ("L1N7", "L1.attn", "L1H2", "L1.mlp")
    found = token_lens(llama, between, names, most=4)
    for e in range(len(found.emotion)):
        for name, write in writes(llama, between, e).items():
            logits, at = by_hand(llama, write), names.index(name)
            best = logits.topk(4)
            assert torch.allclose(found.promoted[e, at], best.values, rtol=1e-3, atol=1e-4)
            words = [found.word[i] for i in found.promoted_token[e, at]]
            assert words == list(token_texts(llama, best.indices.tolist()))
            worst = logits.topk(4, largest=False).values
            assert torch.allclose(found.suppressed[e, at], worst, rtol=1e-3, atol=1e-4)


def test_the_size_of_a_write_does_not_matter_and_its_sign_does(llama):
    write = torch.randn(1, llama.cfg.d_model, generator=torch.Generator().manual_seed(0))
    logits = output_logits(llama, torch.cat([write, 1e-4 * write, -write]))
    assert torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-4)
    assert torch.allclose(logits[0], -logits[2], rtol=1e-3, atol=1e-4)


def test_a_part_that_writes_nothing_promotes_nothing(llama):
    assert output_logits(llama, torch.zeros(2, llama.cfg.d_model)).abs().max() == 0
