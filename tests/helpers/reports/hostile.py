"""Texts that try to leave the place where they are shown."""

import random

# Each would set `top.pwned`, send a request, or hide or reorder what stands beside it.
_SEEDS = (
    "<script>top.pwned=1</script>",
    "</script><script>top.pwned=1</script>",
    "<img src=x onerror=top.pwned=1>",
    "<svg onload=top.pwned=1>",
    '"><b onmouseover=top.pwned=1>',
    "javascript:top.pwned=1",
    "<a href='https://127.0.0.1:9/'>x</a>",
    "<style>*{display:none}</style>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>",
    "<base href=http://127.0.0.1:9/>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<iframe srcdoc='<script>top.pwned=1</script>'>",
    "<form action=http://127.0.0.1:9/>",
    "<object data=http://127.0.0.1:9/>",
    "<noscript><p title='</noscript><img src=x onerror=top.pwned=1>'>",
    "<template><script>top.pwned=1</script>",
    "<math><mtext></form><mglyph><style></math><img src onerror=top.pwned=1>",
    "$\\href{javascript:top.pwned=1}{x}$",
    *("<!--", "-->", "]]>", "<![CDATA[", "{{ 7*7 }}", "{% raw %}", "${top.pwned=1}"),
    *("&lt;script&gt;", "&#x3c;img src=x onerror=top.pwned=1&#x3e;"),
    *("\u202egnp.exe", "\u2066\u2067\u2068", "\u0645\u0631\u062d\u0628\u0627", "\ufeff"),
    *("\0\a\x1b[31m", "\u2028\u2029", "a\u0301" * 40, "W" * 3000, "\r\n\r\n"),
    *("=cmd|' /C calc'!A0", "'", '"', "`", "\\", ""),
)


def hostile_strings(count: int, seed: int = 0) -> list[str]:
    """So many of them: each of the above, then two joined by characters at random."""
    rng = random.Random(seed)
    made = list(_SEEDS)
    while len(made) < count:
        codes = [rng.choice((rng.randrange(128), rng.randrange(0x2000, 0x2070))) for _ in "abc"]
        made.append(rng.choice(_SEEDS) + "".join(map(chr, codes)) + rng.choice(_SEEDS))
    return made[:count]
