"""`jaxdepth export`: write a checkpoint, truncated or with an adapter merged in."""

from jaxdepth.study.certificates.certificate import FILE, Certificate
from jaxdepth.study.certificates.exports import check_export
from jaxdepth.study.run_directory import check_file
from jaxdepth.weights.adapter import find_adapter
from jaxdepth.weights.export import export, export_checkpoint
from jaxdepth.weights.settings import Export


def run(settings: Export) -> int:
    if settings.adapter is not None:
        check_file(find_adapter(settings.adapter))
    certificate = None
    if settings.certificate is not None:
        certificate = Certificate.read(settings.certificate)
        check_export(certificate, settings)
    request = settings.model, settings.target, settings.adapter, settings.dtype, settings.exit
    if settings.to == "checkpoint":
        is_new, what = export_checkpoint(*request), "a checkpoint"
    else:
        is_new = export(*request)
        what = "a Hugging Face folder; `jaxdepth convert` reads it too"
    print(f"{settings.target}: {what}" if is_new else f"{settings.target}: already exported")
    if certificate is not None:
        certificate.write(settings.target / FILE)
        print(f"{settings.target / FILE}: what was certified of it")
    return 0
