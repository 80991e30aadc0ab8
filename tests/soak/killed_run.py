"""A tiny pretraining run that tells, through a pipe, what it is about to do: to be killed at it.

Arguments: the pipe's file descriptor, "eagerly" or "compiled" (TensorFlow alone), then those of pretrain_gpt.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    pipe, how, *argv = int(sys.argv[1]), *sys.argv[2:]

    def mark(what: str) -> None:
        os.write(pipe, f"{what}\n".encode())

    mark("start")
    sys.path[:0] = [str(Path(__file__).resolve().parents[2])]
    sys.path[:0] = [str(Path(__file__).resolve().parents[2] / "recipes")]
    import pretrain_gpt

    from kerasllm import backend, cli
    from kerasllm.training import fit as fit_run
    from kerasllm.training import job
    from kerasllm.training.callbacks import checkpoint as checkpointing
    from kerasllm.training.callbacks.evaluation import Evaluation
    from kerasllm.training.callbacks.number_guard import NumberGuard
    from kerasllm.training.run.directory import RunDirectory

    if how == "eagerly" and backend.name == "tensorflow":
        import tensorflow

        backend.jit_compile = False
        tensorflow.config.run_functions_eagerly(True)

    def announce(owner, name: str, what: str) -> None:
        original = getattr(owner, name)

        def announced(*arguments, **settings):
            mark(what)
            return original(*arguments, **settings)

        setattr(owner, name, announced)

    announce(fit_run.MetricsLog, "on_train_begin", "compile")
    announce(NumberGuard, "on_train_batch_end", "batch")
    announce(checkpointing, "write_safetensors", "save")
    announce(checkpointing.Checkpoint, "_prune", "prune")
    announce(Evaluation, "_validate", "evaluate")
    announce(job, "write_model", "finish")
    announce(RunDirectory, "write_results", "finish")
    mark("import")
    cli.run(pretrain_gpt.main, pretrain_gpt.Config, argv)


if __name__ == "__main__":
    main()
