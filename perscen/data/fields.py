"""Which columns of the feature tables become which field of a tower."""

from __future__ import annotations

from perscen.section import Section


class TowerPlan(Section):
    """Columns of one feature table by the kind of field they become, in node order."""

    categorical: tuple[str, ...]
    dense: tuple[str, ...] = ()
    bags: tuple[str, ...] = ()
    """List columns."""


class FieldPlan(Section):
    """Both towers' columns; the id columns are ``user_id`` and ``item_id``."""

    user: TowerPlan
    item: TowerPlan


KUAIRAND = FieldPlan(
    user=TowerPlan(
        categorical=(
            "user_id",
            "user_active_degree",
            "is_lowactive_period",
            "is_live_streamer",
            "is_video_author",
            "follow_user_num_range",
            "fans_user_num_range",
            "friend_user_num_range",
            "register_days_range",
            *(f"onehot_feat{n}" for n in range(18)),
        ),
        dense=("follow_user_num", "fans_user_num", "friend_user_num", "register_days"),
    ),
    item=TowerPlan(
        categorical=("item_id", "author_id", "video_type", "upload_type", "music_id", "music_type"),
        dense=("video_duration",),
        bags=("tag",),
    ),
)

ALIMAMA = FieldPlan(
    user=TowerPlan(
        categorical=(
            "user_id",
            "cms_segid",
            "cms_group_id",
            "final_gender_code",
            "age_level",
            "pvalue_level",
            "shopping_level",
            "occupation",
        ),
    ),
    item=TowerPlan(
        categorical=("item_id", "cate_id", "campaign_id", "customer", "brand"),
        dense=("price",),
    ),
)
