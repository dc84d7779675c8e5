"""Four pictures from Python. Run: .venv/bin/python examples/quickstart.py"""

from pathlib import Path

from v2flow_engine import Pipeline

OUT = Path("outputs/quickstart")


def main() -> None:
    """Two prompts, two pictures of each; every picture says in its metadata how it was made."""
    OUT.mkdir(parents=True, exist_ok=True)
    with Pipeline.from_pretrained("v2flow-emoji") as pipeline:
        pictures = pipeline.generate(
            ["a 3d pizza on a blue background", "three flat cats on a green background"], n=2, seed=0
        )
    for picture in pictures:
        path = OUT / f"{picture.seed:06d}.png"
        picture.save(path)
        print(f"{path}  {picture.prompt}  (seed {picture.seed})")


if __name__ == "__main__":
    main()
