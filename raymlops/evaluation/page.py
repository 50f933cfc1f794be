"""The page of a report: one HTML document with embedded styles, light and dark, without scripts."""

import html
from collections.abc import Iterable, Mapping

_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1b2330;--soft:#5d6879;--line:#e3e7ee;--grid:#edf0f4;--good:#13795b;
--bad:#c0362c;--goodbg:#e3f5ee;--badbg:#fcebe9;--c1:#2463d6;--c2:#d97706;--c3:#0d9488;--c4:#9333ea;
--c5:#db2777;
--c6:#64748b;--heat:36 99 214}
@media(prefers-color-scheme:dark){:root{--bg:#0f141c;--card:#171e29;--ink:#e7ecf4;--soft:#98a5b8;
--line:#283141;
--grid:#222b39;--good:#4ade9c;--bad:#ff8a7d;--goodbg:#123528;--badbg:#41201d;--c1:#6ea1ff;--c2:#f6ad55;
--c3:#4fd1c5;
--c4:#c084fc;--c5:#f687b3;--c6:#94a3b8;--heat:110 161 255}}
*{box-sizing:border-box}
svg{max-width:600px;margin:0 auto}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"DejaVu Sans",sans-serif}
main{max-width:1180px;margin:0 auto;padding:32px 24px 64px}
header h1{font-size:28px;margin:0 0 4px;letter-spacing:-.02em}
header p{margin:0;color:var(--soft)}
h2{font-size:19px;margin:40px 0 4px;letter-spacing:-.01em}
h2+p.lead{margin:0 0 14px;color:var(--soft);max-width:90ch}
nav{margin:18px 0 0;display:flex;flex-wrap:wrap;gap:6px 16px;font-size:14px}
a{color:var(--c1);text-decoration:none}a:hover{text-decoration:underline}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:16px;
margin-top:12px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:16px}
.card,.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:16px 18px;
min-width:0}
.grid2+.card{margin-top:16px}.card h3{margin:0 0 2px;font-size:15px}
.card>p{margin:0 0 8px;color:var(--soft);font-size:13.5px}
.tile b{display:block;font-size:24px;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}.tile small{color:var(--soft);font-size:12.5px;
font-variant-numeric:tabular-nums}
.badge{display:inline-block;border-radius:999px;padding:3px 12px;font-weight:600;font-size:14px}
.pass{color:var(--good);background:var(--goodbg)}.fail{color:var(--bad);background:var(--badbg)}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:7px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:500;white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
.facts th{width:1%;padding-left:0;padding-right:20px}.facts td{overflow-wrap:anywhere}
tr:last-child>td,tr:last-child>th{border-bottom:0}
table.confusion{width:auto;border-collapse:separate;border-spacing:4px;margin:6px 0}
.confusion th{border:0;text-align:right}.confusion tr:first-child th{text-align:center}
.confusion .corner{font-weight:400;font-size:12px}
.confusion td{border:0;border-radius:8px;min-width:84px;text-align:center;padding:12px 8px;
background:rgb(var(--heat)/calc(.06 + .5*var(--share)))}
.confusion small{display:block;color:var(--soft);color:color-mix(in srgb,var(--ink) 75%,transparent)}
.note{color:var(--soft);font-size:13.5px}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--soft);font-size:11.5px;font-family:inherit}svg text.label{font-size:12.5px}
svg text.name{text-anchor:end;fill:var(--ink);font-size:12.5px}svg text.value{fill:var(--ink)}
.grid{stroke:var(--grid);stroke-width:1}.chance{stroke:var(--soft);stroke-dasharray:4 4;stroke-width:1.2}
.mark{stroke:var(--ink);stroke-width:1.4;stroke-dasharray:2 3}.whisker{stroke:var(--c1);stroke-width:2.5;
opacity:.45;
stroke-linecap:round}
.line{fill:none;stroke-width:2.2;stroke-linejoin:round}.dashed{stroke-dasharray:6 4}.faint{opacity:.3;
stroke-width:1.3}
.s1{--c:var(--c1)}.s2{--c:var(--c2)}.s3{--c:var(--c3)}.s4{--c:var(--c4)}.s5{--c:var(--c5)}.s6{--c:var(--c6)}
.line{stroke:var(--c)}.dot,.bar{fill:var(--c)}.dot{fill-opacity:.85}.area{fill:var(--c);fill-opacity:.5}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:2px 16px;padding:0;margin:6px 0 0 4px;
font-size:13px;
color:var(--soft)}
.legend li::before{content:"";display:inline-block;width:12px;height:4px;border-radius:2px;
background:var(--c);
margin-right:6px;vertical-align:middle}
.legend .dashed::before{background:linear-gradient(90deg,var(--c) 40%,transparent 40% 60%,var(--c) 60%)}
.confusion.many td{min-width:40px;padding:8px 4px;font-size:12.5px}.confusion.many small{display:none}
.confusion.many .corner{max-width:60px;white-space:normal}
@media print{body{background:#fff}.card,.tile{break-inside:avoid}nav{display:none}}
"""


class Markup(str):
    """Text that is already HTML; all other text is escaped."""

    __slots__ = ()


def write_page(title: str, head: str, sections: Iterable[tuple[str, str, str, str]]) -> str:
    """The document; sections are (anchor, heading, lead, content), and those without content are left out."""
    kept = [section for section in sections if section[3]]
    links = "".join(f'<a href="#{anchor}">{html.escape(heading)}</a>' for anchor, heading, _, _ in kept)
    body = "".join(
        f'<section id="{anchor}"><h2>{html.escape(heading)}</h2><p class="lead">{html.escape(lead)}</p>'
        f"{content}</section>"
        for anchor, heading, lead, content in kept
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body><main><header>{head}<nav>{links}</nav></header>{body}</main></body></html>"
    )


def write_card(title: str, lead: str, content: str) -> str:
    """A framed part of a section; empty without content."""
    if not content:
        return ""
    note = f"<p>{html.escape(lead)}</p>" if lead else ""
    return f'<div class="card"><h3>{html.escape(title)}</h3>{note}{content}</div>'


def write_cards(*cards: str) -> str:
    """Cards beside each other; empty if all are."""
    held = "".join(cards)
    return f'<div class="grid2">{held}</div>' if held else ""


def write_tiles(tiles: Iterable[tuple[str, str, str]]) -> str:
    """Large numbers: (name, value, small print)."""
    held = "".join(
        f'<div class="tile"><span>{html.escape(name)}</span><b>{html.escape(value)}</b>'
        f"<small>{html.escape(small)}</small></div>"
        for name, value, small in tiles
    )
    return f'<div class="tiles">{held}</div>'


def write_table(
    head: Iterable[str], rows: Iterable[Iterable[str]], numbers: frozenset[int] = frozenset()
) -> str:
    """A table of escaped text; `numbers` are the columns that are right-aligned. Markup cells are kept."""

    def cell(tag: str, place: int, text: str) -> str:
        held = text if isinstance(text, Markup) else html.escape(text)
        kind = ' class="n"' if place in numbers else ""
        return f"<{tag}{kind}>{held}</{tag}>"

    titles = "".join(cell("th", place, text) for place, text in enumerate(head))
    body = "".join(f"<tr>{''.join(cell('td', p, text) for p, text in enumerate(row))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{titles}</tr>{body}</table></div>' if body else ""


def write_facts(facts: Mapping[str, str]) -> str:
    """Names and values, without the empty ones; values may be long and break anywhere."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in facts.items()
        if value
    )
    return f'<table class="facts">{rows}</table>' if rows else ""


def write_badge(passed: bool, text: str) -> Markup:
    """A coloured label."""
    return Markup(f'<span class="badge {"pass" if passed else "fail"}">{html.escape(text)}</span>')
