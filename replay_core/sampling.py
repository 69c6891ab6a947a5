"""Draw the next tokens of a batch, all rows at once, on the device of the logits."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from visreplay.replay_core.cache import GrowingTensor
from visreplay.replay_core.decoding import check_decoding, is_greedy

_NUCLEUS = 512
"""Number of most probable tokens in which a nucleus is searched first."""

_MORE = 32
"""Factor by which the second search takes more tokens than the first."""

_BLOCK = 128
"""Number of probabilities that are added up together, to find the drawn one in two steps."""


class Sampler:
    """How the tokens of one continuation are drawn.

    A token takes one number from the continuation's own generator, which is on the CPU. So a seed
    means the same on every device, and in every batch.

    Attributes:
        temperature: As in `Decoding`; so are the others.
        top_p: See there.
        top_k: See there.
        repetition_penalty: See there.
        greedy: Whether the most probable token is taken.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        context_ids: Iterable[int] = (),
    ) -> None:
        """Prepare to draw.

        Args:
            temperature: As in `Decoding`.
            top_p: As in `Decoding`.
            top_k: As in `Decoding`.
            repetition_penalty: As in `Decoding`.
            seed: As in `Decoding`.
            context_ids: The tokens before the continuation, to which the penalty applies.

        Raises:
            ConfigError: a setting is out of range.
        """
        check_decoding(temperature, top_p, top_k, repetition_penalty)
        self.temperature, self.top_p, self.top_k = temperature, top_p, top_k
        self.repetition_penalty = repetition_penalty
        self.greedy = is_greedy(temperature, top_k)
        self._generator = None if seed is None else torch.Generator().manual_seed(seed)
        self._known = set(context_ids) if self.penalised else set()
        self._known_ids = GrowingTensor(axis=0)
        self._new_ids = sorted(self._known)

    @property
    def penalised(self) -> bool:
        """Tell whether the tokens of the context count."""
        return self.repetition_penalty != 1

    def uniform(self) -> float:
        """Take a number in [0, 1) from the generator."""
        return float(torch.rand((), dtype=torch.float64, generator=self._generator))

    def add(self, token_id: int) -> None:
        """Add a token to those that the penalty applies to."""
        if self.penalised and token_id not in self._known:
            self._known.add(token_id)
            self._new_ids.append(token_id)

    def known_ids(self, device: torch.device) -> Tensor:
        """Return the tokens `(N,)` that the penalty applies to, each once."""
        if self._new_ids or not len(self._known_ids):
            self._known_ids.append(torch.tensor(self._new_ids, dtype=torch.long, device=device))
            self._new_ids = []
        return self._known_ids.data


def draw(logits_KV: Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """Draw the next token of each row.

    In the order of transformers: penalty, temperature, top-k, top-p. Nothing is sorted where no
    row has a `top_k` or `top_p`.

    Args:
        logits_KV: Logits of the rows.
        samplers: One for each row.

    Returns:
        The tokens; None for a row whose logits are no numbers (NaN, or infinite).
    """
    scores_KV = _penalised(logits_KV.float(), samplers)
    best_K, ids_K = scores_KV.max(-1)
    rows = [row for row, sampler in enumerate(samplers) if not sampler.greedy]
    if rows:
        rows_R = torch.tensor(rows, device=scores_KV.device)
        drawn_R = _sampled(scores_KV[rows_R], [samplers[row] for row in rows])
        ids_K[rows_R] = drawn_R.to(ids_K.device)
    drawn = torch.where(best_K.isfinite(), ids_K, -1).tolist()
    return [None if token_id < 0 else token_id for token_id in drawn]


def _penalised(scores_KV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Apply the repetition penalty of each row to the tokens that the row knows."""
    device = scores_KV.device
    known = [
        (row, sampler.repetition_penalty, sampler.known_ids(device))
        for row, sampler in enumerate(samplers)
        if sampler.penalised
    ]
    if not known:
        return scores_KV
    rows_N = torch.cat([torch.full_like(ids, row) for row, _, ids in known])
    penalty_N = torch.cat(
        [torch.full_like(ids, penalty, dtype=torch.float32) for _, penalty, ids in known]
    )
    ids_N = torch.cat([ids for *_, ids in known])
    score_N = scores_KV[rows_N, ids_N]
    score_N = torch.where(score_N < 0, score_N * penalty_N, score_N / penalty_N)
    return scores_KV.index_put((rows_N, ids_N), score_N)


def _sampled(scores_RV: Tensor, samplers: Sequence[Sampler]) -> Tensor:
    """Draw a token `(R,)` from each row, by temperature, top-k and top-p; overwrites the scores.

    What is added up is few numbers a row, and is moved to the CPU: in float64, which MPS lacks.
    """
    device = scores_RV.device
    temperature_R = torch.tensor([each.temperature for each in samplers], device=device)
    probs_RV = scores_RV.div_(temperature_R[:, None]).softmax(-1)
    vocabulary = probs_RV.shape[1]
    top_k = [min(each.top_k or vocabulary, vocabulary) for each in samplers]
    top_p = [each.top_p for each in samplers]
    limited = [k for k in top_k if k < vocabulary]
    if min(top_p) < 1:
        limited.append(min(_NUCLEUS, max(top_k)))
    if limited:
        best_Rm = probs_RV.topk(max(limited)).values.cpu()
        last_R1 = torch.tensor(top_k)[:, None] - 1
        least_R1 = best_Rm.gather(-1, last_R1.clamp(max=best_Rm.shape[1] - 1))
        least_R1[last_R1 == vocabulary - 1] = 0.0
        probs_RV.masked_fill_(probs_RV < least_R1.to(device), 0.0)
        if min(top_p) < 1:
            best_Rm.masked_fill_(best_Rm < least_R1, 0.0)
            least_R1 = _nucleus(
                probs_RV, best_Rm, torch.tensor(top_p, dtype=torch.float64)[:, None]
            )
            probs_RV.masked_fill_(probs_RV < least_R1.to(device), 0.0)
    return _at_share(
        probs_RV, torch.tensor([each.uniform() for each in samplers], dtype=torch.float64)
    )


def _nucleus(probs_RV: Tensor, best_Rm: Tensor, top_p_R1: Tensor) -> Tensor:
    """Find the smallest probability `(R, 1)` that top-p keeps.

    A token is kept as long as those before it do not reach top-p.

    Args:
        probs_RV: Probabilities, which need not add up to 1.
        best_Rm: The largest of them, in descending order, on the CPU. Rows whose nucleus is larger
            are searched again.
        top_p_R1: The share to reach in each row, on the CPU; 1 keeps everything.
    """
    vocabulary, count = probs_RV.shape[1], best_Rm.shape[1]
    share_Rm = best_Rm.double() / probs_RV.sum(-1, keepdim=True).cpu()
    inside_Rm = share_Rm.cumsum(-1) - share_Rm < top_p_R1
    last_R1 = inside_Rm.sum(-1, keepdim=True).clamp(min=1) - 1
    least_R1 = best_Rm.gather(-1, last_R1).masked_fill_(top_p_R1 == 1, 0.0)
    wide = (inside_Rm[:, -1] & (best_Rm[:, -1] > 0) & (top_p_R1[:, 0] < 1)).nonzero()[:, 0]
    if count < vocabulary and len(wide):
        wide_WV = probs_RV[wide.to(probs_RV.device)]
        if _MORE * count < vocabulary:
            best_Wm = wide_WV.topk(_MORE * count).values
        else:
            best_Wm = wide_WV.sort(descending=True).values
        least_R1[wide] = _nucleus(wide_WV, best_Wm.cpu(), top_p_R1[wide])
    return least_R1


def _at_share(values_RV: Tensor, share_R: Tensor) -> Tensor:
    """Find the first entry `(R,)` with which the running sum of a row exceeds a share of its sum.

    First the block of entries is found and then the entry in it, which is faster and more exact
    than the running sum of a whole vocabulary.
    """
    rows, vocabulary = values_RV.shape
    if spare := -vocabulary % _BLOCK:
        values_RV = torch.nn.functional.pad(values_RV, (0, spare))
    blocks_RBN = values_RV.view(rows, -1, _BLOCK)
    sums_RB = blocks_RBN.sum(-1).cpu().double()
    block_R, rest_R = _first_above(sums_RB, share_R * sums_RB.sum(-1))
    at_R = torch.arange(rows), block_R
    entries_RN = blocks_RBN[tuple(each.to(values_RV.device) for each in at_R)].cpu().double()
    entry_R, _ = _first_above(entries_RN, rest_R)
    return (block_R * _BLOCK + entry_R).clamp(max=vocabulary - 1)


def _first_above(values_RN: Tensor, target_R: Tensor) -> tuple[Tensor, Tensor]:
    """Find where the running sums exceed their targets, and what is left of the targets there."""
    running_RN = values_RN.cumsum(-1)
    # Rounding must not lead behind the last positive value, nor onto a zero before it.
    below_all_R = running_RN[:, -1].nextafter(torch.zeros_like(target_R))
    target_R = target_R.minimum(below_all_R).clamp(min=0)
    index_R1 = torch.searchsorted(running_RN, target_R[:, None], right=True)
    index_R1 = index_R1.clamp(max=values_RN.shape[1] - 1)  # NaN leads behind the end
    before_R1 = running_RN.gather(-1, index_R1) - values_RN.gather(-1, index_R1)
    return index_R1[:, 0], target_R - before_R1[:, 0]
