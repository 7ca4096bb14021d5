"""What the certificate beside a run says of it, in words."""

from jaxdepth.errors import visible
from jaxdepth.study.certificates.certificate import FILE, Certificate
from jaxdepth.study.certificates.system import name_difference, system_of
from jaxdepth.study.certificates.words import certificate_lines
from jaxdepth.study.report.reading import ReportRun
from jaxdepth.study.report.safe_text import tame_name, without_folders


def certified_sentences(run: ReportRun) -> list[str]:
    """The certificate in a run's directory in words; that of another run is only named.

    Raises:
        InputError: it is damaged or was edited.
    """
    file = run.path / FILE
    if not file.is_file():
        return []
    certificate = Certificate.read_any(file)
    other = _other_run(certificate, run)
    return [other] if other else [visible(line) for line in certificate_lines(certificate)]


def _other_run(certificate: Certificate, run: ReportRun) -> str | None:
    """That a certificate is of another run, and why; None where it is of this one."""
    digests = {name: table["sha256"] for name, table in run.record["tables"].items()}
    read = certificate.content["runs"]
    if not any(r["tables"].items() <= digests.items() for r in read):
        names = " and ".join(tame_name(without_folders(r["path"])) for r in read) or "unnamed"
        return (
            f"{FILE} is of another run ({names}): the prompts or answers that it was made from "
            "are not those of this run. Certify this run."
        )
    difference = name_difference(certificate.system, system_of(run.record["settings"]))
    if difference is not None:
        return f"{FILE} is of another run: here {visible(difference)}. Certify this run."
    return None
