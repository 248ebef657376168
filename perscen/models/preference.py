"""What a user prefers in a scenario, eqs. (7)-(12), and the scenario's own part of it.

Letters: B queries, S scenarios, D embedding width, Z preference width, W width of fusion.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from perscen.models.config import PerscenConfig
from perscen.models.gather import spread
from perscen.models.layers import mlp
from perscen.models.quantiser import Quantiser
from perscen.models.ranks import gather_rows, num_ranks

HIDDEN: Final = 32
"""Hidden width of the encoders of eqs. (7) and (11)."""


class Preference(NamedTuple):
    """``p_hat`` of eq. (12), the quantiser's loss, and each row's code (None: no codebook)."""

    vector_BW: Tensor
    loss: Tensor
    codes_B: Tensor | None


class ScenarioPreference(nn.Module):
    """The user side: the scenario's own history and the scenario itself, eqs. (7)-(12)."""

    def __init__(self, width: int, config: PerscenConfig, *, num_scenarios: int) -> None:
        super().__init__()
        Z = config.pref.dim
        self._mask_empty = config.vq.mask_empty
        self.encode_scenario = mlp(config.emb.dim, HIDDEN, Z)
        self.reads_history = config.pref.sequence == "spec"
        if self.reads_history:
            self.project = mlp(config.emb.dim, HIDDEN, Z)
            self.quantise = (
                Quantiser(Z, config.vq, num_scenarios=num_scenarios)
                if config.vq.codebook_size
                else None
            )
        self.fuse = mlp(2 * Z if self.reads_history else Z, config.out_dim, width)

    def forward(
        self,
        history_BD: Tensor | None,
        nonempty_B: Tensor | None,
        scenario_SD: Tensor,
        scenario_B: Tensor,
    ) -> Preference:
        """Return each query's preference.

        Args:
            history_BD: Pooled clicks of the scenario; None when the model reads none.
            nonempty_B: Bool, which of them pool at least one click.
            scenario_SD: ``e_s`` of every scenario, eq. (3).
            scenario_B: Each query's scenario.
        """
        scenario_SZ = self.encode_scenario(scenario_SD)
        no_loss = scenario_SZ.new_zeros(())
        if history_BD is None:
            return Preference(spread(self.fuse(scenario_SZ), scenario_B), no_loss, None)
        own_BZ = self.project(history_BD)
        loss, codes_B = no_loss, None
        if self.quantise is not None:
            counted_B = nonempty_B if self._mask_empty else None
            if num_ranks() > 1 and self.quantise.starts:
                self._start_codes(self.quantise, history_BD, counted_B)
            own_BZ, loss, codes_B = self.quantise(own_BZ, counted_B, scenario_B)
        both = torch.cat([own_BZ, spread(scenario_SZ, scenario_B)], dim=1)
        return Preference(self.fuse(both), loss, codes_B)

    @torch.no_grad()
    def _start_codes(
        self, quantise: Quantiser, history_BD: Tensor, counted_B: Tensor | None
    ) -> None:
        """Start the codes from the batch of all ranks, projected as a whole, as one process does.

        Gathered after the projection, equal rows could differ in their last bits, by how many rows
        a rank has, and one of them would be taken for several.
        """
        all_AZ = self.project(gather_rows(history_BD))
        quantise.start(all_AZ if counted_B is None else all_AZ[gather_rows(counted_B)])


class ItemPreference(nn.Module):
    """The item side: the scenario alone, one row per scenario.

    With ``share_scenario_encoder`` it has no encoder of its own and reads ``p_s`` of the user side.
    """

    def __init__(self, width: int, config: PerscenConfig) -> None:
        super().__init__()
        self.shared = config.item_tower.share_scenario_encoder
        if not self.shared:
            self.encode_scenario = mlp(config.emb.dim, HIDDEN, config.pref.dim)
        self.fuse = mlp(config.pref.dim, config.out_dim, width)

    def forward(self, scenario_SD: Tensor, encode_of_users: nn.Module) -> Tensor:
        """Return ``p_hat`` of every scenario, ``[S, W]``."""
        encode = encode_of_users if self.shared else self.encode_scenario
        preference_SW: Tensor = self.fuse(encode(scenario_SD))
        return preference_SW


class ConstantPreference(nn.Module):
    """A learned constant in place of the scenario (``item_tower.scenario_aware: false``)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.vector_1W = nn.Parameter(torch.zeros(1, width))

    def forward(self, scenario_SD: Tensor, encode_of_users: nn.Module) -> Tensor:  # noqa: ARG002
        """Return the same ``p_hat`` for every scenario, ``[S, W]``."""
        return self.vector_1W.expand(len(scenario_SD), -1)
