/** How the page looks: on a screen, on a phone, on paper. Colours never stand alone: each state has a word. */
export const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #c9ced6; --good: #2f7d4f;
  --part: #b26a00; --bad: #b3261e; --none: #e7e9ee; --soft: #5b6470; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #15181c; --line: #3a414a;
  --good: #5cc68a; --part: #f0a94a; --bad: #ff8a80; --none: #2a2f36; --soft: #9aa4b0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p, td, th, caption, figcaption { overflow-wrap: anywhere; }
.soft, caption, figcaption { color: var(--soft); }
caption { text-align: left; padding-bottom: .25rem; }
.wide { overflow-x: auto; }
figure { margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .2rem .75rem .2rem 0;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
.runs td, .runs th { white-space: nowrap; }
.runs td[data-title="Note"], .runs td[data-title="VM"], .runs td[data-title="Disk"] {
  white-space: normal; min-width: 10rem; }
.timeline th { width: 12rem; min-width: 6rem; }
.timeline th, .timeline td { vertical-align: middle; }
svg { display: block; max-width: none; }
.ok { fill: var(--good); color: var(--good); }
.part { fill: var(--part); color: var(--part); }
.bad { fill: var(--bad); color: var(--bad); }
.none { fill: var(--none); }
.cross { stroke: var(--paper); stroke-width: 2; }
.full { fill: var(--soft); }
.inc { fill: var(--good); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  .runs thead { position: absolute; left: -999rem; }
  .runs tr { display: block; padding: .4rem 0; border-bottom: 1px solid var(--line); }
  .runs td, .runs td[data-title] { display: inline; border: 0; padding: 0 .5rem 0 0; white-space: normal; }
  .runs td[data-title]::before { content: attr(data-title) " "; color: var(--soft); }
  .runs td[data-title="Point in time"]::before, .runs td[data-title="State"]::before,
  .runs td[data-title="VM"]::before, .runs td[data-title="Note"]:empty::before { content: ""; }
  .timeline th { width: 6rem; position: sticky; left: 0; background: var(--paper); }
  /* What does not fit is scrolled to, and the newest nights are seen first. */
  .wide { direction: rtl; }
  .wide > * { direction: ltr; margin-left: 0; margin-right: auto; }
}
@media print {
  :root { color-scheme: light; --ink: #000; --paper: #fff; --line: #999; --good: #2f7d4f; --part: #b26a00;
    --bad: #b3261e; --none: #ddd; --soft: #444; }
  body { max-width: none; padding: 0; font-size: 9pt; }
  .wide { overflow: visible; }
  svg { max-width: 100%; height: auto; }
  tr, figure { break-inside: avoid; }
  * { print-color-adjust: exact; }
}
`;
