"""How the page of a network looks."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--card:#f6f7f9;--ink:#1c2430;--faint:#5d6878;
--line:#cfd6df;--ours:#1f7a5a;--alone:#b0651d;--sparse:#cfe9dd;--dense:#dbe4f5;--other:#ebedf0}
@media(prefers-color-scheme:dark){:root{--paper:#12161c;--card:#1b2129;--ink:#e6eaf0;
--faint:#9aa6b5;--line:#3a4553;--ours:#4fc397;--alone:#e0964a;--sparse:#1d4a3a;--dense:#25375a;
--other:#2a313b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header,main{max-width:1360px;margin:auto;padding:1rem 1.2rem}
h1{margin:.2rem 0;font-size:1.6rem}h2{margin:0 0 .4rem;font-size:1.05rem}
p{margin:.4rem 0}header>p{margin:0 0 1rem}.faint,figcaption{color:var(--faint)}
main{display:grid;grid-template-columns:320px minmax(0,1fr);gap:1.4rem;align-items:start}
aside{position:sticky;top:0;max-height:100vh;overflow:auto}
@media(max-width:860px){main{grid-template-columns:1fr}aside{position:static;max-height:60vh}}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:.8rem;
margin:.4rem 0 1rem}
.tile,section{background:var(--card);border:1px solid var(--line);border-radius:10px}
.tile{padding:.7rem 1rem}.tile b{display:block;font-size:1.6rem;line-height:1.3}
section{padding:.9rem 1.1rem;margin-bottom:1rem}section:target{outline:3px solid var(--ours)}
section.single{padding:.45rem 1.1rem;margin-bottom:.5rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:.4rem 1.4rem}
figure{margin:.5rem 0;overflow-x:auto}figcaption{font-size:.85rem;margin-bottom:.2rem}
.bar{display:grid;grid-template-columns:10.2rem 1fr 5.2rem;gap:.5rem;white-space:nowrap;
align-items:center;font-size:.88rem}
.bar span:last-child,td,th{text-align:right;font-variant-numeric:tabular-nums}
.track{height:.75rem;background:var(--other);border-radius:4px;overflow:hidden}
.fill{height:100%;background:var(--ours)}.alone .fill{background:var(--alone)}
table{border-collapse:collapse;font-size:.88rem;width:100%}
td,th{padding:.1rem .4rem;white-space:nowrap;border-bottom:1px solid var(--line);font-weight:normal}
th{color:var(--faint)}td:first-child,th:first-child{text-align:left}
tr.chosen td{font-weight:600;color:var(--ours)}
.chip{display:inline-block;padding:.05rem .5rem;margin:.1rem .15rem .1rem 0;border-radius:6px;
background:var(--dense);font-size:.85rem}.chip.sparse{background:var(--sparse)}
.stop{border-left:3px solid var(--alone);padding-left:.6rem}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg text.shape{fill:var(--faint);
font-size:10.5px}svg .frame{fill:none;stroke:var(--ours);stroke-width:1.5}
svg a:hover .frame{stroke-width:3}svg text.title{fill:var(--ours);font-size:11.5px}
svg .edge{fill:none;stroke:var(--faint)}svg .sparse rect{fill:var(--sparse)}
svg .dense rect{fill:var(--dense)}svg .other rect{fill:var(--other)}
"""
