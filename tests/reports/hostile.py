"""Texts that break pages, tables and files where they are not escaped."""

TEXT = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'{{ 7*7 }}&amp;]]><!--"
    "\u202eevil\u2066\u061c\x00\x1b[31m\ud800\ufffe\r\n| a | b |\n"
    "# title @someone #1 https://example.org [x](javascript:1)"
)
FORMULA = '=HYPERLINK("http://x","y")'
LONG = TEXT * 60_000  # 10 MB
FORBIDDEN = set("\x00\x1b\u202e\u2066\u061c\ud800\ufffe")
