"""What the compiler behind `torch.compile` is spared changes nothing; run on PyTorch alone."""

import gc

import keras
import numpy as np
import pytest

from kerasllm import GPTCausalLM, GPTConfig
from kerasllm.tasks import CausalLanguageModeling
from kerasllm.training.optimization.optimizers import adamw

if keras.backend.backend() == "torch":
    import torch
    from torch._inductor import cpu_vec_isa

    from kerasllm.backend.torch import compiler as torch_compiler
    from kerasllm.backend.torch import decoding as torch_decoding
    from kerasllm.backend.torch import parts as torch_parts
    from kerasllm.backend.torch import training as torch_training

    def losses() -> list[float]:
        """Of three compiled steps."""
        shape = {
            "vocabulary_size": 50,
            "max_sequence_length": 16,
            "num_layers": 1,
            "num_heads": 2,
            "hidden_dim": 8,
        }
        model = GPTCausalLM(GPTConfig(**shape, dropout=0.1), seed=3)
        CausalLanguageModeling().compile(model, adamw(1e-2), jit_compile=True)
        tokens = np.random.default_rng(0).integers(0, 50, (4, 17)).astype("int32")
        inputs, labels = {"token_ids": tokens[:, :-1]}, tokens[:, 1:]
        return [float(model.train_on_batch(inputs, labels)) for _ in range(3)]

    @pytest.fixture
    def recorded_again(monkeypatch):
        """The graphs that the compiler records once more."""
        graphs = []
        compile_recorded = torch._inductor.compile
        monkeypatch.setattr(
            torch._inductor,
            "compile",
            lambda graph, *more: graphs.append(graph) or compile_recorded(graph, *more),
        )
        return graphs

    @pytest.mark.parametrize("error", [AttributeError, TypeError])
    def test_a_compiler_of_another_version_records_again(error, recorded_again, monkeypatch, capsys):
        def other_names(*arguments):
            raise error("of another version")

        expected = losses()
        assert not recorded_again
        monkeypatch.setattr(torch_compiler, "_after_recording", other_names)
        monkeypatch.setattr(torch_parts, "_functions", {})  # the compiled parts that the process keeps
        np.testing.assert_allclose(losses(), expected, rtol=1e-5)
        assert recorded_again
        assert "without compilation" not in capsys.readouterr().err

    def test_few_compiled_parts_are_kept(monkeypatch):
        """Those used last, whatever the models; a program keeps its own."""
        made = []
        monkeypatch.setattr(torch_parts, "_functions", {})
        monkeypatch.setattr(torch_parts, "_MOST_KEPT", 2)

        def program(rows):
            argument = torch.ones(rows)
            graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: [x + 1], tracing_mode="fake")(
                argument
            )
            run = torch_parts.compiled_in_parts(
                graph, torch_parts.whole(graph), lambda part, inputs: made.append(len(inputs[0])) or part
            )
            return lambda: float(run(argument)[0].sum())

        programs = [program(rows) for rows in (1, 2, 3, 2, 4)]
        assert made == [1, 2, 3, 4] and len(torch_parts._functions) == 2
        assert [run() for run in programs] == [2, 4, 6, 4, 8]
        program(2)
        assert made == [1, 2, 3, 4]
        program(1)  # used long ago
        assert made == [1, 2, 3, 4, 1]

    def forget_instructions():
        for kind in {*map(type, cpu_vec_isa.supported_vec_isa_list), cpu_vec_isa.VecISA}:
            for method in vars(kind).values():
                if hasattr(method, "cache_clear"):
                    method.cache_clear()

    def test_the_processors_instructions_are_those_the_compiler_finds(monkeypatch, tmp_path):
        """Which builds and loads a program for each kind."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        usable = set(cpu_vec_isa.x86_isa_checker())

        def found():
            forget_instructions()
            made = [type(kind)() for kind in cpu_vec_isa.supported_vec_isa_list]
            return [
                bool(kind) and kind.build_arch_flags() for kind in made if set(str(kind).split()) <= usable
            ]

        try:
            expected = found()
            takes_options = torch_compiler._options_tested(cpu_vec_isa.VecISA.check_build)
            monkeypatch.setattr(cpu_vec_isa.VecISA, "check_build", takes_options)
            assert found() == expected
        finally:
            forget_instructions()  # those of the objects made here
        unknown = type("Unknown", (), {"build_arch_flags": lambda self: "-mno-such-instructions"})()
        assert takes_options(unknown, "") is False

    def test_a_gpus_random_state_is_kept_beside_the_cpus(monkeypatch):
        cpu = torch_training.get_random_state()
        restored = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.arange(16, dtype=torch.uint8))
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: restored.append(state.tolist()))
        both = torch_training.get_random_state()
        drawn = torch.rand(3)
        torch_training.set_random_state(both)
        assert restored == [list(range(16))]
        np.testing.assert_array_equal(torch.rand(3), drawn)
        torch_training.set_random_state(cpu)  # of a machine without a GPU
        assert len(restored) == 1
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        torch_training.set_random_state(both)
        np.testing.assert_array_equal(torch.rand(3), drawn)
        assert len(restored) == 1

    def test_generation_lets_its_copies_of_the_weights_go(bfloat16):
        """Those in bfloat16, which a traced step would keep; a table of this size is nobody else's."""
        bfloat16()
        shape = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "max_sequence_length": 16}
        model = GPTCausalLM(GPTConfig(vocabulary_size=2741, **shape), seed=3)
        model.generate([5, 6], max_new_tokens=3)
        gc.collect()
        kinds = (torch.Tensor, torch.nn.Parameter)
        tables = [thing for thing in gc.get_objects() if type(thing) in kinds and 2741 in thing.shape]
        assert {table.dtype for table in tables} == {torch.float32}

    def test_a_step_that_cannot_be_repeated_is_not_recorded():
        def step(weights, inputs, state):
            return state * int(state[0])

        program = torch_decoding.repeated(step, lambda state: torch.tensor(False))
        with pytest.raises(TypeError, match="looks at the value of a tensor"):
            program([], [], torch.arange(2, 5), 2)

    def test_a_recorded_step_goes_on_from_its_own_results():
        """Whatever it does: written in place, split in two, with constants of its own."""
        known = torch.tensor([1.0, -1.0, 2.0, 0.5])

        def step(weights, inputs, state):
            first, second = torch.split(state["values"] * weights[0] + known, 2)
            state["places"][1].copy_(first)
            return {"values": torch.cat([second, first]), "places": state["places"]}

        def start():
            return {"values": torch.arange(4.0), "places": torch.zeros(3, 2)}

        weights, expected = [torch.tensor(0.5)], start()
        for _ in range(3):
            expected = step(weights, [], expected)
        found = torch_decoding.repeated(step, lambda state: torch.tensor(False))(weights, [], start(), 3)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
