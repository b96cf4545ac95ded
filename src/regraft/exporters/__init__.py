"""Exporters: one artifact in, another form of the same network out, held against its source before anybody can see it."""

from typing import TYPE_CHECKING

from regraft.registry import Registry

if TYPE_CHECKING:
    from regraft.exporters.exporter import Exporter

EXPORTERS: "Registry[type[Exporter]]" = Registry(
    "exporters",
    {
        "onnx": "regraft.exporters.onnx:OnnxExporter",
        "openvino": "regraft.exporters.openvino:OpenvinoExporter",
        "torch": "regraft.exporters.torch_program:TorchExporter",
        "executorch": "regraft.exporters.executorch:ExecutorchExporter",
        "transformers": "regraft.exporters.transformers:TransformersExporter",
        "peft": "regraft.exporters.peft:PeftExporter",
        "sentence-transformers": "regraft.exporters.sentence_transformers:SentenceTransformersExporter",
        "mlflow": "regraft.exporters.mlflow:MlflowExporter",
        "docker": "regraft.exporters.docker:DockerExporter",
    },
    extra="export",
)

__all__ = ["EXPORTERS"]
