"""Table of a tuning run."""

from jaxdepth.study.tables import Column, Table

LOSS = Table(
    "loss",
    "an optimiser step",
    (
        Column("step", "int32", "number of the step, from 0"),
        Column("loss", "float32", "training loss", "nats"),
        Column("full", "float32", "its part at full depth", "nats"),
        Column("early", "float32", "cross-entropy or DPO loss at early exits", "nats"),
        Column("distill", "float32", "divergence of early exits from full depth", "nats"),
        Column("grad_norm", "float32", "global norm of the gradient before clipping"),
        Column("learning_rate", "float32", "learning rate"),
        Column("exits", "list of int32", "exits that are supervised"),
    ),
)
