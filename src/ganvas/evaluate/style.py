"""How a report looks, beside what all pages share."""

from __future__ import annotations

from ganvas.evaluate import charts

STYLE = (
    charts.STYLE
    + """
:root { --bad: #b3261e; --good: #1b7a43; --odd: #806600 }
@media (prefers-color-scheme: dark) { :root { --bad: #ff9d94; --good: #74d99a; --odd: #dfc24c } }
.stack { display: grid; gap: 1.25rem; grid-template-columns: minmax(0, 1fr) }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem } figure p { margin: .6rem 0 0; font-size: .9rem }
ul.words { margin: 0; padding-left: 1.1rem } ul.words li { margin: .25rem 0 }
ul.words small { color: var(--soft); font-size: .9em; font-weight: 400 }
ul.words li:first-child { font-size: 1.15rem; font-weight: 600; list-style: none; margin: 0 0 .6rem -1.1rem }
ul.notes { margin: .8rem 0 0; padding: .7rem 0 0 1.1rem; border-top: 1px solid var(--line); color: var(--soft);
           font-size: .9rem }
.sheet { display: grid; gap: 2px; justify-content: center } img.smooth { image-rendering: auto }
@media (max-width: 40rem) { img.many { image-rendering: auto } }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 8.5rem), 1fr)); gap: 1rem .8rem }
.pairs div { min-width: 0; font-size: .8rem; line-height: 1.35; color: var(--soft); overflow-wrap: anywhere }
.pairs span { display: flex; gap: 2px; margin-bottom: .3rem } .pairs img { width: 50%; max-width: 8rem; min-width: 0 }
.scroll { overflow-x: auto } .scroll:focus-visible { outline: 2px solid var(--c1); outline-offset: 2px }
table { margin: 0; font-size: .9rem; font-variant-numeric: tabular-nums } td { vertical-align: top }
.scroll table { min-width: 100% } .scroll td, .scroll th { padding: .4rem .9rem .4rem 0; white-space: nowrap }
.scroll td:not(:last-child), .scroll th { padding-right: 1.2rem } .scroll td, .scroll thead th { text-align: right }
.scroll th:first-child { text-align: left; padding-right: 1.5rem } .scroll tbody th { color: var(--ink) }
.scroll tbody th:first-child { white-space: normal; min-width: 8rem; max-width: 16rem; overflow-wrap: anywhere }
.scroll tbody tr { border-top: 1px solid var(--line) } tr.real td, .scroll tr.real th { color: var(--soft);
  font-style: italic }
@media (max-width: 56rem) {
  .scroll thead { display: none } .scroll table, .scroll tbody { display: block }
  .scroll tbody tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr));
    gap: .15rem 1.2rem; padding: .6rem 0 }
  .scroll tbody tr:first-child { border-top: 0 }
  .scroll tbody th:first-child { grid-column: 1 / -1; max-width: none; padding: 0; font-weight: 600 }
  .scroll td, .scroll td:not(:last-child) { display: flex; flex-wrap: wrap; justify-content: space-between;
    gap: 0 .6rem; padding: 0; white-space: normal; min-width: 0 }
  .scroll td::before { content: attr(data-head); color: var(--soft) }
  .scroll td.long { grid-column: span 2 }
}
dl { margin: 1rem 0 0; display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr));
     gap: .8rem 1.5rem; font-size: .9rem } dt { font-weight: 600 } dt small { font-weight: 400; color: var(--soft) }
dd { margin: 0; color: var(--soft) }
ol.legend { list-style: none; columns: 9rem; margin: .8rem 0 0; padding: 0; font-size: .9rem }
ol.legend li { overflow-wrap: anywhere; padding: .15rem 0; break-inside: avoid }
.chip { display: inline-block; min-width: 1.5em; padding: 0 .35em; border-radius: .7em; text-align: center;
        font-weight: 600; font-size: .85em; color: var(--card) }
.ring { background: none; border: 2px solid var(--ink); min-width: 1em; width: 1em; height: 1em; padding: 0;
        vertical-align: -.12em; margin: 0 .25em }
.flag { font-size: .85em; font-weight: 600; white-space: nowrap }
.bad { color: var(--bad) } .good { color: var(--good) }
.odd { color: var(--odd) }
details { border-top: 1px solid var(--line); padding: .45rem 0 } summary { cursor: pointer; overflow-wrap: anywhere }
summary small { color: var(--soft) } details .grid { margin: .6rem 0 } figcaption + details { border-top: 0 }
table.values { width: 100%; table-layout: fixed; margin-top: .3rem; line-height: 1.25 }
table.values th { width: 38%; padding: .25rem .8rem .25rem 0; color: var(--ink); overflow-wrap: anywhere }
table.values td { padding: .25rem 0; font-size: .9em } table.values td:last-child { width: 4.2rem; text-align: right }
.bars { vertical-align: middle } .bar { display: block; height: .55rem; min-width: 1px; margin: 2px 0;
        border-radius: 0 .2rem .2rem 0 }
.of-real { background: var(--soft) } .of-samples { background: var(--c1) }
.key { display: inline-block; width: 1em; height: .55rem; border-radius: .15rem; margin: 0 .3em 0 .8em }
table.facts td, table.facts th { padding: .2rem 1.2rem .2rem 0 }
"""
    + "".join(f".k{i} {{ background: var(--c{i}) }}\n" for i in range(1, charts.TONES + 1))
)
