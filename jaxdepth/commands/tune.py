"""`jaxdepth tune`: an adapter that refuses, at full depth or at every exit."""

from jaxdepth.commands.printing import print_places
from jaxdepth.runtime.lock import one_at_a_time
from jaxdepth.runtime.progress import progress_bar
from jaxdepth.study.tuning.run import ADAPTER, tune
from jaxdepth.study.tuning.settings import Tune
from jaxdepth.study.tuning.summary import draw_losses, print_losses


@one_at_a_time(lambda settings: settings.output.out)
def run(settings: Tune) -> int:
    run = tune(settings, progress_bar)
    print_losses(run.path)
    print_places(run.path, draw_losses(run.path))
    adapter = run.path / ADAPTER
    print(f"Adapter: {adapter} ({adapter.stat().st_size / 1e6:.1f} MB); use it with --adapter")
    return 0
