"""The ranges of the config's numbers."""

import math

from ray_jobs.ranges import Ranges

RANGES = Ranges(
    closed={
        "epochs": (1, math.inf),
        "max_steps": (1, math.inf),
        "stage1_steps": (1, math.inf),
        "single_steps": (0, math.inf),
        "batch_size": (1, math.inf),
        "gradient_accumulation": (1, math.inf),
        "warmup_steps": (0, math.inf),
        "final_learning_rate_share": (0, 1),
        "updates_per_rollout": (1, math.inf),
        "max_rounds": (1, 8),
        "alpha": (0, math.inf),
        "lambda_stage1": (0, math.inf),
        "gamma": (0, math.inf),
        "beta": (0, math.inf),
        "importance_cap": (1, math.inf),
        "max_answer_tokens": (1, math.inf),
        "max_feedback_tokens": (1, math.inf),
        "seed": (0, 2**63 - 1),
        "checkpoint_interval": (1, math.inf),
        "keep_checkpoints": (1, math.inf),
        "validation_interval": (1, math.inf),
        "validation_prompts": (3, math.inf),
        "test_prompts": (3, math.inf),
    },
    positive=("learning_rate", "clip_norm", "epsilon", "temperature", "checkpoint_minutes"),
)
