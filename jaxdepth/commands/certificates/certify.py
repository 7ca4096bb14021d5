"""`jaxdepth certify`: which exit or policy may be deployed?"""

from jaxdepth.errors import visible
from jaxdepth.study.certificates.certificate import FILE
from jaxdepth.study.certificates.certify import certify
from jaxdepth.study.certificates.exports import export_command
from jaxdepth.study.certificates.settings import Certify
from jaxdepth.study.certificates.words import certificate_lines

NOT_CERTIFIED = 4


def run(settings: Certify) -> int:
    certificate = certify(settings)
    file = settings.out or settings.runs[0] / FILE
    certificate.write(file)
    print("\n".join(map(visible, certificate_lines(certificate))))
    print(f"\n{visible(str(file))}: the certificate, with every test")
    command = export_command(certificate, file)
    if command is not None:
        print(f"Export what was certified:\n  {visible(command)}")
    return 0 if certificate.rule is not None else NOT_CERTIFIED
