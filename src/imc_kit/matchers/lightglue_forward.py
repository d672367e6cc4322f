"""The forward pass of LightGlue over a batch of pairs, with the layers and weights of kornia's module.

Each pair gets the matches that kornia's module finds, in less time:

- An image goes through the first self-attention once, not once per pair.
- Attention always runs in torch's fused kernel, which never stores the similarities. kornia stores those between the
  images of a pair.
- The keypoints of all images of a batch are the rows of one matrix. Only attention runs image by image, so nothing is
  padded, and each pair drops keypoints and stops as it would alone.
- Linear layers with nothing between them are merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from imc_kit.runtime.torch_utils import Tensor


@dataclass(frozen=True)
class Encoded:
    """An image after the first self-attention."""

    states: Tensor
    """[N, D]."""
    turns: Tensor
    """[N, d / 2]: the rotary encoding of each keypoint, complex, for heads with d numbers."""


class Forward:
    """The network on one device. It changes kornia's module, which no longer works on its own."""

    def __init__(self, network: Any, where: Any, *, half: bool) -> None:
        """network: kornia's, with its weights in float32. where: the torch device."""
        import torch

        self.conf = network.conf
        self._prunable = network.pruning_min_kpts(where)
        for layer in network.transformers:
            alone, across = layer.self_attn, layer.cross_attn
            # kornia's rows are heads × numbers × (query, key, value); these are (query, key, value) × heads × numbers.
            split = (self.conf.num_heads, -1, 3)
            alone.Wqkv = _linear(
                *(values.unflatten(0, split).movedim(2, 0).flatten(0, 2) for values in alone.Wqkv.parameters())
            )
            both = zip(across.to_qk.parameters(), across.to_v.parameters(), strict=True)
            across.to_qkv = _linear(*(torch.cat(values) for values in both))
            for block, projection in ((alone, alone.out_proj), (across, across.to_out)):
                of_states, of_message = block.ffn[0].weight.chunk(2, 1)
                weight = torch.cat([of_states, of_message @ projection.weight], 1)
                block.ffn[0] = _linear(weight, block.ffn[0].bias + of_message @ projection.bias)
            del alone.out_proj, across.to_out, across.to_qk, across.to_v
        self._network = network.to(where, torch.float16 if half else torch.float32)
        network.posenc.float()  # angles in half precision would be wrong by a hundredth

    def encode(self, positions: Tensor, descriptors: Tensor) -> Encoded:
        """Encode one image. positions: what the positional encoding takes, float32 [N, P]. descriptors: [N, input]."""
        import torch

        angles = self._network.posenc.Wr(positions)
        turns = torch.polar(torch.ones_like(angles), angles)
        states = self._network.input_proj(descriptors.to(self._network.log_assignment[0].final_proj.weight.dtype))
        return Encoded(self._attend_alone(0, states, turns, [len(states)]), turns)

    def match(self, pairs: Sequence[tuple[Encoded, Encoded]]) -> list[tuple[Tensor, Tensor]]:
        """The matches of each pair, int64 [K, 2], sorted by the first index, and their scores, float32 [K]."""
        import torch

        images = [image for pair in pairs for image in pair]
        states, turns = (torch.cat([getattr(image, name) for image in images]) for name in ("states", "turns"))
        counts = [len(image.states) for image in images]  # those that are left, as in all of these:
        places = torch.cat([torch.arange(count, device=states.device) for count in counts])
        owners = torch.cat([torch.full((count,), i, device=states.device) for i, count in enumerate(counts)])
        before = torch.tensor(counts, device=states.device)
        found: list[Any] = [None] * len(pairs)
        for number in range(self.conf.n_layers):
            if number:
                states = self._attend_alone(number, states, turns, counts)
            states = self._attend_across(number, states, counts)
            ended, kept = self._judge(number, states, owners, before)
            parts = list(zip(torch.split(states, counts), torch.split(places, counts), strict=True))
            for pair, over in enumerate(ended.tolist()):
                if over and found[pair] is None:
                    found[pair] = self._assign(number, *parts[2 * pair], *parts[2 * pair + 1])
            if all(found):
                break
            rows = (kept & ~ended[owners // 2]).nonzero()[:, 0]
            states, turns, places, owners = (values[rows] for values in (states, turns, places, owners))
            counts = torch.bincount(owners, minlength=len(images)).tolist()
        return found

    def _judge(self, number: int, states: Tensor, owners: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        """Which pairs end after a layer [B], and which keypoints the others keep [R].

        owners: the image of each row [R]. before: the number of keypoints of each image before any was dropped [2 B].
        """
        import torch

        conf, network = self.conf, self._network
        last = number == conf.n_layers - 1
        ended, kept = before.new_full((len(before) // 2,), last, dtype=torch.bool), torch.ones_like(owners) > 0
        if conf.width_confidence > 0 and not last:
            kept = network.log_assignment[number].get_matchability(states) > 1 - conf.width_confidence
            kept |= (torch.bincount(owners, minlength=len(before)) <= self._prunable)[owners]
        if conf.depth_confidence > 0 and not last:
            confidence, limit = network.token_confidence[number].token(states)[:, 0], network.confidence_thresholds
            unsure = torch.bincount(owners[confidence < limit[number]], minlength=len(before))
            ended = 1 - _of_pairs(unsure) / _of_pairs(before) > conf.depth_confidence
            kept |= confidence <= limit[number]
        return ended, kept

    def _attend_alone(self, number: int, states: Tensor, turns: Tensor, counts: Sequence[int]) -> Tensor:
        """Self-attention in each image. counts: its rows."""
        import torch

        block = self._network.transformers[number].self_attn
        qkv = block.Wqkv(states).unflatten(1, (3, self.conf.num_heads, -1))
        numbers = torch.view_as_complex(qkv[:, :2].float().unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(numbers * turns[:, None, None]).flatten(-2).to(states.dtype)
        q, k, v = (values.split(counts) for values in (turned[:, 0], turned[:, 1], qkv[:, 2]))
        return _advanced(block, states, [*map(_attention, q, k, v)])

    def _attend_across(self, number: int, states: Tensor, counts: Sequence[int]) -> Tensor:
        """Attention of each image to the other image of its pair. counts: the rows of each image."""
        block = self._network.transformers[number].cross_attn
        qk, v = block.to_qkv(states).unflatten(1, (2, self.conf.num_heads, -1)).unbind(1)
        qk, v = qk.split(counts), v.split(counts)
        return _advanced(block, states, [_attention(qk[i], qk[i ^ 1], v[i ^ 1]) for i in range(len(counts))])

    def _assign(
        self, number: int, first: Tensor, rows: Tensor, second: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The mutual best matches above the threshold. rows, columns: the places of the keypoints in their images."""
        import torch
        from torch.nn import functional

        if not len(first) or not len(second):
            return rows.new_empty(0, 2), first.new_empty(0)
        head = self._network.log_assignment[number]
        left, right = head.final_proj(first), head.final_proj(second)
        similarities = (left / left.shape[1] ** 0.5).float() @ right.float().T
        logs = similarities.log_softmax(1).add_(similarities.log_softmax(0))
        logs += functional.logsigmoid(head.matchability(first).float())
        logs += functional.logsigmoid(head.matchability(second).float()).T
        best, column = logs.max(1)
        scores, mutual = best.exp(), logs.argmax(0)[column] == torch.arange(len(column), device=column.device)
        row = (mutual & (scores > self.conf.filter_threshold)).nonzero()[:, 0]
        return torch.stack([rows[row], columns[column[row]]], 1), scores[row]


def _of_pairs(counts: Tensor) -> Tensor:
    """The sums over the two images of each pair."""
    return counts.view(-1, 2).sum(1)


def _linear(weight: Tensor, bias: Tensor) -> Any:
    """A linear layer with these weights."""
    import torch

    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = (torch.nn.Parameter(values.contiguous(), False) for values in (weight, bias))
    return layer


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of one image, [N, heads, d] each, as messages [N, heads × d]."""
    from torch.nn import functional

    if not len(q) or not len(k):
        return q.flatten(1)  # of an image without keypoints to attend to; its pair has no matches
    q, k, v = (values.transpose(0, 1)[None] for values in (q, k, v))
    return functional.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)


def _advanced(block: Any, states: Tensor, messages: list[Tensor]) -> Tensor:
    """The states after a block of the network. messages: those to each image."""
    import torch

    change: Tensor = block.ffn(torch.cat([states, torch.cat(messages)], 1))
    return states + change
