"""`jaxdepth export-logs`: a finished sweep as logs of another library."""

from jaxdepth.benchmarks.settings import ExportLogs
from jaxdepth.commands.benchmarks.libraries import import_with


def run(settings: ExportLogs) -> int:
    command = f"jaxdepth export-logs --to {settings.to}"
    module = import_with("jaxdepth.benchmarks.inspect.export", settings.to, command)
    folder, count = module.export_logs(settings.run, settings.out)
    print(f"{folder}: {count} logs, one for each exit. Open them with")
    print(f"  inspect view --log-dir {folder}")
    return 0
