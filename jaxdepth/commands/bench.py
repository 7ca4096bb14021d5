"""`jaxdepth bench`: all exits against one run at full depth, timed side by side."""

from jaxdepth.study.planning.bench import bench, missing_peers
from jaxdepth.study.planning.settings import Bench


def run(settings: Bench) -> int:
    print("ratios to the fastest run at full depth: median of the rounds (range)\n")
    print("| prompts | new tokens | program | ratio (range) | compile, s |")
    print("|---|---|---|---|---|")
    for row in bench(settings):
        print(
            f"| {row.prompts} | {row.new_tokens} | {row.program} | "
            f"{row.ratio:.2f} ({row.low:.2f}-{row.high:.2f}) | {row.compile_seconds:.0f} |",
            flush=True,
        )
    for name, reason in missing_peers(settings).items():
        print(f"\n{name}: not run ({reason})")
    return 0
