import { pointLabel } from '../compare/expand.ts';
import { devCurves, trainingCurves } from './figures/compareCurves.ts';
import { methodRankFigures, mostRanks } from './figures/compareRanks.ts';
import { budgetFigure, seedsFigure } from './figures/compareScores.ts';
import type { Figure } from './figures/figure.ts';
import { scoresFigure } from './figures/scores.ts';
import { type Html, html } from './html.ts';
import { type DrawnFigure, drawFigure, renderPage } from './page.ts';
import type { Comparison, Variant } from './readCompare.ts';
import { compareHeader } from './sections/compareHeader.ts';
import { budgetTable, checkTable, compareRecord, costTable, failureTable } from './sections/compareRecord.ts';
import { differenceTable, rateNotes, readingNotes, resultTable } from './sections/compareResults.ts';

/** Points of the grid that get curves of their own; a longer grid is drawn at its first and last. */
const mostPoints = 4;

const slug = (text: string): string => text.replace(/[^A-Za-z0-9.]+/g, '-').replace(/^-|-$/g, '');

/** The page of a comparison, and its figures in the order in which they stand. */
export async function comparePage({
  record,
  variants,
}: Comparison): Promise<{ html: string; figures: DrawnFigure[] }> {
  const drawn: DrawnFigure[] = [];
  const figures = async (list: readonly (Figure | undefined)[]): Promise<Html> => {
    const these: DrawnFigure[] = [];
    for (const figure of list) if (figure) these.push(await drawFigure(figure));
    drawn.push(...these);
    return html`${these.length > 0 && html`<div class="figures">${these.map(({ markup }) => markup)}</div>`}`;
  };
  const section = (id: string, title: string, ...body: (Html | undefined)[]): Html =>
    html`<section id="${id}"><h2>${title}</h2>\n${body.filter((part) => part !== undefined)}</section>\n`;

  const labels = record.methods.map(({ label }) => label);
  const points = [...new Set(variants.map(({ point }) => pointLabel(point)))];
  const at = (point: string) => variants.filter((variant) => pointLabel(variant.point) === point);
  const titled = (point: string, body: Html | undefined) =>
    point === '' || !body ? body : html`<h3>${point}</h3>${body}`;
  const column = record.columns[0];

  const results: (Html | undefined)[] = [];
  for (const point of points) {
    const here = at(point);
    const tables = ['test', 'dev'].flatMap((split) => {
      const table = resultTable(record, here, split as 'dev' | 'test');
      if (!table) return [];
      return record.columns[0]?.split === split
        ? [table]
        : [html`<details><summary>On ${split}, at the step that is best on dev</summary>${table}</details>`];
    });
    const differences = differenceTable(record, here);
    results.push(titled(point, html`${tables}${differences ?? ''}`));
  }
  const curves: Html[] = [];
  const drawnPoints = points.length > mostPoints ? [points[0]!, points.at(-1)!] : points;
  for (const point of drawnPoints) {
    const where = point === '' ? '' : ` (${point})`;
    const end = point === '' ? '' : `-${slug(point)}`;
    curves.push(
      await figures([
        trainingCurves(at(point), labels, `training-loss${end}`, where),
        devCurves(at(point), labels, `dev-loss${end}`, where),
        column && seedsFigure(at(point), labels, column, `seeds${end}`, where),
      ]),
    );
  }
  const sections = [
    section(
      'results',
      'Results',
      ...results,
      readingNotes(record),
      rateNotes(record, variants),
      failureTable(variants),
    ),
    section('curves', 'Curves', ...curves),
    column && points.length > 1
      ? section(
          'budgets',
          'Performance against budget',
          await figures([budgetFigure(variants, labels, column)]),
        )
      : undefined,
    section('treatment', 'Identical treatment', checkTable(record)),
    section('budget', 'Budget', budgetTable(variants)),
    section('ranks', 'Where the ranks are', await rankSwitch(variants, figures)),
    section('cost', 'Memory, speed and time', costTable(record, variants)),
    section('record', 'Record', compareRecord(record, variants)),
  ].filter((part) => part !== undefined);
  return {
    html: renderPage({
      title: `${labels.join(', ')}: comparison`,
      header: compareHeader(record, variants),
      sections,
      footer: `Made by onnx-alora report${record.versions['onnx-alora'] ? ` (runs by version ${record.versions['onnx-alora']})` : ''} from compare.json and the run folders beside it; the figures lie in report/ as SVG, the numbers in compare.csv.`,
      rules: rules(variants.length),
    }),
    figures: drawn,
  };
}

/** One panel a method, one of them shown at a time; a choice without a script, and on paper all of them. */
async function rankSwitch(
  variants: readonly Variant[],
  figures: (list: readonly (Figure | undefined)[]) => Promise<Html>,
): Promise<Html> {
  const high = mostRanks(variants);
  const name = ({ label, point }: Variant) => [label, pointLabel(point)].filter(Boolean).join(', ');
  const panels: Html[] = [];
  for (const [i, variant] of variants.entries()) {
    const scored = variant.folders[0];
    const last = scored?.scores.at(-1);
    const scores = last && scoresFigure(last, scored!.modules);
    const id = variant.folder;
    const body = await figures([
      ...methodRankFigures(variant, id, high),
      scores && { ...scores, id: `${id}-scores`, title: `${variant.label}: ${scores.title}, first seed` },
    ]);
    panels.push(
      html`<div class="panel p${i}"><h3 class="paper-only">${name(variant)}</h3>${body.markup === '' ? html`<p class="note">No run has saved an adapter yet.</p>` : body}</div>`,
    );
  }
  return html`<div class="switch">${variants.map((_, i) => html`<input type="radio" name="method" id="m${i}"${i === 0 && html` checked`}>`)}<div class="choices" role="group" aria-label="method">${variants.map((variant, i) => html`<label for="m${i}">${name(variant)}</label>`)}</div><div class="panels">${panels}</div></div>`;
}

function rules(count: number): string {
  const each = (rule: (i: number) => string) => Array.from({ length: count }, (_, i) => rule(i)).join(',');
  return `
.switch>input{position:absolute;opacity:0;pointer-events:none}
.choices{display:flex;flex-wrap:wrap;gap:6px;margin:14px 0 18px}
.choices label{padding:4px 13px;border:1px solid var(--line);border-radius:99px;font-size:14px;cursor:pointer;overflow-wrap:anywhere}
.choices label:hover{border-color:var(--blue)}
${each((i) => `#m${i}:checked~.choices label[for=m${i}]`)}{background:var(--blue);border-color:var(--blue);color:var(--onStrong)}
${each((i) => `#m${i}:focus-visible~.choices label[for=m${i}]`)}{outline:2px solid var(--ink);outline-offset:2px}
.paper-only{display:none}
@media screen{.panel{display:none}
${each((i) => `#m${i}:checked~.panels>.p${i}`)}{display:block}}
@media print{.choices{display:none}.paper-only{display:block}}
td.paper,th.paper{border-left:1px dashed var(--line);padding-left:14px;color:var(--muted);font-style:italic;white-space:normal;min-width:11em}
td.ahead{color:var(--blue)}td.ahead .note{font-weight:400}
tbody th{vertical-align:top}
.checks th{white-space:nowrap;width:7em}.checks td:nth-child(2){white-space:nowrap;width:7em}
`;
}
