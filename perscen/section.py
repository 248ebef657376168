"""The base of every group of settings."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings in which an unknown key is an error.

    The string under a field is its description: ``perscen params`` writes it into ``params.yaml``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
