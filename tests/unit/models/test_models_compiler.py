"""Commands open torch's compiler where something is compiled and not before; it knows then what it would have known."""

from __future__ import annotations

import subprocess
import sys

_OUT = "from regraft.models.unasked import keep_out\nkeep_out()\n"
_BERT = (
    "import torch\nfrom transformers import BertConfig, BertModel\n"
    "config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)\n"
    "net = BertModel(config)\n"
)
_CLOSED = "assert 'torch._dynamo' not in sys.modules and 'sympy' not in sys.modules\n"
_ONE_MACHINE = "assert 'torch.distributed.tensor' not in sys.modules\n"


def passes(program: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", f"import sys\n{program}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_a_word_from_us_it_is_opened() -> None:
    """Or the others would show nothing."""
    passes(f"{_BERT}assert 'torch._dynamo' in sys.modules and 'torch.distributed.tensor' in sys.modules\n")


def test_opening_training_and_saving_a_network_does_not_open_it(tmp_path) -> None:
    passes(
        f"{_OUT}{_BERT}"
        "from pathlib import Path\nfrom regraft.models.backbones import open_body\n"
        "from regraft.training.fused import FusedAdamW\nfrom regraft.models.unasked import none_spread\n"
        "with none_spread():\n    net.save_pretrained(sys.argv[1])\n"
        "body = open_body(Path(sys.argv[1])).model\n"
        "step = FusedAdamW([{'params': list(body.parameters()), 'lr': 1e-3, 'weight_decay': 0.0}], (0.9, 0.999), 1e-8)\n"
        "body(input_ids=torch.ones(1, 3, dtype=torch.long)).last_hidden_state.sum().backward()\n"
        "step.step()\nstep.zero_grad()\nstep.load_state_dict(step.state_dict())\n"
        f"{_CLOSED}{_ONE_MACHINE}",
        str(tmp_path),
    )


def test_once_it_is_open_what_was_kept_from_it_is_not_compiled() -> None:
    """Both before and after; `recursive=False` lets it compile what is called."""
    passes(
        f"{_OUT}import torch\n"
        "compiling = torch.compiler.is_compiling\n"
        "seen = {}\n"
        "def inner(name, x):\n    seen[name] = compiling()\n    return x + 1\n"
        "@torch.compiler.disable\ndef apart(x):\n    return inner('apart', x)\n"
        "@torch.compiler.disable(recursive=False)\ndef alone(x):\n    return inner('alone', x)\n"
        "assert apart(torch.ones(2)).sum() == 4 and apart.__name__ == 'apart'\n"
        f"{_CLOSED}"
        "graphs = []\n"
        "def backend(graph, inputs):\n    graphs.append(str(graph.graph))\n    return graph.forward\n"
        "def whole(x):\n    x = x * 3\n    x = apart(x)\n    return x * 5\n"
        "assert torch.compile(whole, backend=backend)(torch.ones(2)).tolist() == [20, 20]\n"
        "assert 'torch._dynamo' in sys.modules and len(graphs) == 2 and not seen['apart']\n"
        "assert not any('add' in graph for graph in graphs), graphs\n"
        "@torch.compiler.disable\ndef later(x):\n    return x + 1\n"
        "graphs.clear()\n"
        "def second(x):\n    return later(x * 3) * 5\n"
        "assert torch.compile(second, backend=backend)(torch.ones(2)).tolist() == [20, 20]\n"
        "assert len(graphs) == 2 and not any('add' in graph for graph in graphs), graphs\n"
    )


def test_marks_reach_it() -> None:
    passes(
        f"{_OUT}import torch\n"
        "@torch.compiler.assume_constant_result\ndef constant():\n    return 3\n"
        "@torch.compiler.allow_in_graph\ndef as_it_is(x):\n    return x + 1\n"
        f"{_CLOSED}"
        "import torch._dynamo\n"
        "from torch._dynamo import trace_rules\n"
        "assert constant._dynamo_marked_constant\n"
        "assert trace_rules.is_callable_allowed(as_it_is)\n"
        "later = torch.compiler.allow_in_graph(lambda x: x)\nassert trace_rules.is_callable_allowed(later)\n"
    )


def test_the_hubs_marks_reach_it_and_its_masks_get_the_real_class() -> None:
    passes(
        f"{_OUT}{_BERT}{_CLOSED}"
        "from transformers.integrations import deepgemm\nfrom transformers import masking_utils\n"
        "assert not hasattr(deepgemm.is_sm100, '_dynamo_marked_constant')\n"
        "with masking_utils.TransformGetItemToIndex():\n    pass\n"
        "assert 'torch._dynamo' in sys.modules and deepgemm.is_sm100._dynamo_marked_constant\n"
        "from torch._dynamo._trace_wrapped_higher_order_op import TransformGetItemToIndex\n"
    )


def test_another_release_may_ask_for_more_of_it(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "integrations"):
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("")
    (tmp_path / "masking_utils.py").write_text("from torch._dynamo.decorators import disable\n")
    (tmp_path / "integrations" / "deepgemm.py").write_text("import torch\nfound = torch._dynamo.config\n")
    package = "import torch, types\npackage = types.ModuleType('transformers')\npackage.__path__ = [sys.argv[1]]\n"
    loads = "sys.modules['transformers'] = package\n"
    asks = "import torch._dynamo\nassert torch._dynamo.config is found and isinstance(torch._dynamo, types.ModuleType)\n"
    real = "assert sys.modules['torch._dynamo'].__file__\n"
    passes(f"{_OUT}{package}{loads}from transformers.integrations.deepgemm import found\n{asks}{real}", str(tmp_path))
    passes(f"{_OUT}{package}{loads}from transformers.masking_utils import disable\n{real}", str(tmp_path))


def test_it_asks_a_network_that_is_saved_once_it_is_open() -> None:
    passes(
        f"{_OUT}{_BERT}"
        "from accelerate.utils.other import is_compiled_module\nassert is_compiled_module(net) is False\n"
        f"{_CLOSED}"
        "made = torch.compile(torch.nn.Linear(2, 2), backend='eager')\nassert is_compiled_module(made) is True\n"
    )
