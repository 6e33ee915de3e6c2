import { figureRules, fonts, monospace, schemeVariables } from './theme.ts';

/** A shadow at each edge beyond which a table goes on: its cover moves with the table, the shadow itself does not. */
const cover = (edge: string) =>
  `linear-gradient(var(--surface),var(--surface)) ${edge}/28px 100% no-repeat local`;
const shadow = (edge: string) =>
  `linear-gradient(to ${edge},transparent,var(--line)) ${edge}/12px 100% no-repeat scroll`;
const scrollShadows = [cover('left'), cover('right'), shadow('left'), shadow('right')].join(',');

/** The page's style sheet: a single column of text and figures, light, dark and on paper. */
export const styleSheet = `
:root{color-scheme:light dark;${schemeVariables('light')}}
@media screen and (prefers-color-scheme:dark){:root{${schemeVariables('dark')}}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--surface);color:var(--ink);font:16px/1.55 ${fonts};font-variant-numeric:tabular-nums}
main{max-width:1040px;margin:0 auto;padding:56px 32px 96px}
header{margin-bottom:40px}
.eyebrow{color:var(--muted);font-size:13px;letter-spacing:.06em;text-transform:uppercase;margin:0 0 10px}
h1{font-size:38px;line-height:1.15;letter-spacing:-.02em;font-weight:650;margin:0 0 12px;overflow-wrap:anywhere}
.lead{font-size:18px;color:var(--muted);margin:0;max-width:46em}
.lead+.lead{font-size:16px;margin-top:10px}
.state{display:inline-block;margin-left:6px;padding:1px 9px;border-radius:99px;border:1px solid currentColor;letter-spacing:0;text-transform:none;font-size:12px;color:var(--teal)}
.state.open{color:var(--orange)}
h2{font-size:23px;letter-spacing:-.01em;font-weight:640;margin:56px 0 6px;padding-top:20px;border-top:1px solid var(--grid)}
h3{font-size:15px;font-weight:640;margin:28px 0 6px}
p{margin:0 0 14px;max-width:44em}
.note{color:var(--muted);font-size:.9em}
code,pre,.mono{font-family:${monospace};font-size:.86em}
pre{background:color-mix(in srgb,var(--grid) 45%,transparent);border-radius:8px;padding:14px 16px;overflow-x:auto;line-height:1.5;margin:8px 0 16px;white-space:pre-wrap;overflow-wrap:anywhere}
.facts{display:flex;flex-wrap:wrap;gap:1px;background:var(--grid);border:1px solid var(--grid);border-radius:12px;overflow:hidden;margin:32px 0 0;padding:0}
.facts>div{background:var(--surface);padding:16px 20px;flex:1 1 auto}
.facts dt{font-size:13px;color:var(--muted)}
.facts dd{margin:2px 0 0;font-size:24px;line-height:1.3;font-weight:600;letter-spacing:-.015em;white-space:nowrap}
.facts dd small{display:block;font-size:13px;font-weight:400;letter-spacing:0;color:var(--muted);white-space:normal}
.facts .from{color:var(--muted);font-weight:400;font-size:.68em;letter-spacing:0}
.notes{border-left:3px solid var(--orange);padding:2px 0 2px 16px;margin:28px 0 0;font-size:14px}
.notes ul{margin:4px 0 0;padding-left:18px}
.scroll{overflow-x:auto;margin:10px 0 18px}
@media screen{.scroll{background:${scrollShadows}}}
table{border-collapse:collapse;width:100%;font-size:14px;line-height:1.4}
th{font-weight:500;color:var(--muted);text-align:left;vertical-align:bottom;font-size:.93em;white-space:nowrap}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--grid)}
th:last-child,td:last-child{padding-right:0}
td{vertical-align:top}
.n{text-align:right;white-space:nowrap}
tbody th{color:var(--ink);font-weight:400;font-size:inherit;white-space:normal}
td.strong{font-weight:640}
.up{color:var(--blue)}.down{color:var(--orange)}.zero{color:var(--muted)}
.plain td,.plain th{border:0;padding-top:4px;padding-bottom:4px}
.plain th{vertical-align:top;width:11em;color:var(--muted);white-space:normal}
.plain td{overflow-wrap:anywhere}
.figures{display:flex;flex-wrap:wrap;gap:12px 40px;align-items:flex-start;margin:18px 0 8px}
figure{margin:0 0 14px;flex:0 1 auto;width:100%;max-width:var(--w)}
figure h3{margin:0 0 2px}
figcaption{color:var(--muted);font-size:13px;line-height:1.45;margin:0 0 12px;max-width:56em}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figure .narrow{display:none}
figure text{font-variant-numeric:tabular-nums}
details{margin:10px 0 18px}
summary{cursor:pointer;color:var(--muted);font-size:14px;padding:4px 0}
summary:hover{color:var(--ink)}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:0 28px;margin:18px 0 26px}.pair+.pair{border-top:1px solid var(--grid);padding-top:14px}
.pair .prompt{grid-column:1/-1;margin-bottom:8px}
.pair h4{font-size:12px;font-weight:500;color:var(--muted);margin:0 0 2px}
.pair p{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;font-size:15px}
footer{margin-top:72px;color:var(--muted);font-size:13px}
${figureRules()}
@media screen and (max-width:700px){
main{padding:32px 18px 64px}
h1{font-size:29px}.lead{font-size:16px}h2{margin-top:48px}
.facts>div{padding:12px 14px;flex-basis:40%}th,td{padding-right:9px}table{font-size:13px}th{white-space:normal}.facts dd{font-size:20px}
.pair{grid-template-columns:1fr;gap:12px}
.plain th,.plain td{display:block;width:auto;padding:0}.plain td{padding-bottom:9px}
figure{max-width:560px}
figure .wide{display:none}figure .narrow{display:block}
}
@media print{
:root{color-scheme:light}
main{max-width:none;padding:0}body{font-size:13px}.lead{font-size:15px}h1{font-size:28px}
figure{max-width:calc(var(--w)*.68)}figcaption{font-size:11px}.figures{gap:8px 3.5%}.facts dd{font-size:18px}.facts>div{padding:10px 12px}table{font-size:12px}th,td{padding:4px 10px 4px 0}
h2{break-after:avoid;margin-top:32px}figure,.pair,tr,.facts{break-inside:avoid}
details:not([open])::details-content{content-visibility:visible;display:block}
pre{white-space:pre-wrap}
}
`;
