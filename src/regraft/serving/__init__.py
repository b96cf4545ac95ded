"""The one door to a model: the predictor, the runtimes behind it, and HTTP in front of it."""

from regraft.registry import Registry
from regraft.serving.runtime import Runtime

RUNTIMES: Registry[type[Runtime]] = Registry(
    "runtimes",
    {
        "torch": "regraft.serving.runtime_torch:TorchRuntime",
        "onnxruntime": "regraft.serving.runtime_onnxruntime:OnnxruntimeRuntime",
        "openvino": "regraft.serving.runtime_openvino:OpenvinoRuntime",
        "torch-program": "regraft.serving.runtime_torch_program:TorchProgramRuntime",
        "executorch": "regraft.serving.runtime_executorch:ExecutorchRuntime",
        "transformers": "regraft.serving.runtime_transformers:TransformersRuntime",
        "peft": "regraft.serving.runtime_peft:PeftRuntime",
    },
)

__all__ = ["RUNTIMES", "Runtime"]
