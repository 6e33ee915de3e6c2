import { pointLabel } from '../../compare/expand.ts';
import type { Column, CompareRecord, VariantRecord } from '../../compare/record.ts';
import { excludesZero, type PairedDifference } from '../../compare/statistics.ts';
import { columnName } from '../figures/compareScores.ts';
import { change, decimal, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import { paperScores } from '../paper.ts';
import type { Variant } from '../readCompare.ts';

const dash = '\u2013';

/** Trained scalars that a method starts with, as planned. */
const initialParameters = ({ plan }: VariantRecord): number =>
  plan.modules.reduce((sum, { rank, costOfOneRank }) => sum + rank * costOfOneRank, 0);

const range = (values: readonly number[]): string => {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  return least === most ? integer(least) : `${integer(least)}\u2013${integer(most)}`;
};

const finished = ({ runs }: VariantRecord) => runs.filter(({ state }) => state === 'finished');

/** Runs that count, and what became of the others. */
function runsCell(variant: VariantRecord): Html {
  const done = finished(variant).length;
  const others = new Map<string, number>();
  for (const { state, failure } of variant.runs)
    if (state !== 'finished') {
      const what = failure?.kind ?? 'not run';
      others.set(what, (others.get(what) ?? 0) + 1);
    }
  const early = variant.runs.filter(({ stoppedEarly }) => stoppedEarly).length;
  return html`${done}${[...others].map(([what, count]) => html`<br><span class="down">${count} ${what}</span>`)}${early > 0 && html`<br><span class="note">${early} stopped early</span>`}`;
}

function scoreCell(variant: VariantRecord, { id }: Column): Html {
  const summary = variant.summary[id];
  if (!summary) return html`<td class="n">${dash}</td>`;
  const spread = `${decimal(summary.mean)}${summary.sd === null ? '' : ` \u00b1 ${decimal(summary.sd)}`}`;
  return html`<td class="n${variant.ahead.includes(id) ? ' strong ahead' : ''}">${decimal(summary.median)}<br><span class="note">${spread}</span></td>`;
}

/** The table of the paper at one point: method, initial and final parameters, and every score of a split. */
export function resultTable(
  record: CompareRecord,
  variants: readonly Variant[],
  split: Column['split'],
): Html | undefined {
  const columns = record.columns.filter((column) => column.split === split);
  if (columns.length === 0) return undefined;
  const paper = paperScores[record.task];
  const body = variants.map((variant) => {
    const { strategy } = record.methods[variant.method]!;
    const finals = finished(variant).map(({ budget }) => budget!.final.parameters);
    const printed = paper?.methods[strategy];
    const printedSize =
      printed?.initial === undefined ? '' : ` (${printed.initial} M \u2192 ${printed.final} M)`;
    return html`<tr><th scope="row">${variant.label}</th><td class="n">${runsCell(variant)}</td><td class="n">${integer(initialParameters(variant))}</td><td class="n">${finals.length > 0 ? range(finals) : dash}</td>${columns.map((column) => scoreCell(variant, column))}${paper && html`<td class="paper">${printed ? `${printed.scores}${printedSize}` : dash}</td>`}</tr>`;
  });
  return html`<div class="scroll"><table>
<thead><tr><th>method</th><th class="n">runs</th><th class="n">initial parameters</th><th class="n">final</th>${columns.map((column) => html`<th class="n">${columnName(column)} ${column.lowerIsBetter ? '\u2193' : '\u2191'}</th>`)}${paper && html`<th class="paper">the paper's own numbers<br>${paper.source}</th>`}</tr></thead>
<tbody>${body}</tbody></table></div>`;
}

/** What is left of zero by rounding is zero. */
const rounded = (n: number): number => (Math.abs(n) < 1e-12 ? 0 : n);

function differenceCell(difference: PairedDifference | undefined): Html {
  if (!difference) return html`<td class="n">${dash}</td>`;
  const interval = difference.interval
    ? html`<br><span class="note">${decimal(rounded(difference.interval[0]))} to ${decimal(rounded(difference.interval[1]))}</span>`
    : html`<br><span class="note">${difference.n} in common: no interval</span>`;
  return html`<td class="n${excludesZero(difference) ? ' strong' : ''}">${change(rounded(difference.mean))}${interval}</td>`;
}

/** Every method minus the baseline, seed by seed. */
export function differenceTable(record: CompareRecord, variants: readonly Variant[]): Html | undefined {
  const others = variants.filter(({ label }) => label !== record.baseline);
  const columns = record.columns.filter(({ split }) => split === record.columns[0]?.split);
  if (others.length === 0 || columns.length === 0) return undefined;
  const body = others.map(
    ({ label, againstBaseline }) =>
      html`<tr><th scope="row">${label}</th>${columns.map(({ id }) => differenceCell(againstBaseline[id]))}</tr>`,
  );
  return html`<h3>Against ${record.baseline}, seed by seed</h3>
<div class="scroll"><table>
<thead><tr><th>method minus ${record.baseline}</th>${columns.map((column) => html`<th class="n">${columnName(column)} ${column.lowerIsBetter ? '\u2193' : '\u2191'}</th>`)}</tr></thead>
<tbody>${body}</tbody></table></div>`;
}

/** How to read the tables. */
export function readingNotes(record: CompareRecord): Html {
  const n = record.seeds.length;
  return html`<p class="note">Upper number: median over the seeds (${record.seeds.join(', ')}); below it mean \u00b1 standard deviation. Failed runs are in none of these. Bold in the upper table: the best median, and ahead of every other method, paired by seed, with a 95 % bootstrap interval that excludes zero; in the lower: the interval excludes zero${n < 3 ? '; that needs three seeds or more' : ''}. ${n >= 3 && n <= 5 ? `With ${n} seeds such an interval is narrow: equal methods would agree in sign, and so exclude zero, in one comparison of ${2 ** (n - 1)}.` : ''}</p>`;
}

/** One learning rate for all, or what the search found for each. */
export function rateNotes(record: CompareRecord, variants: readonly Variant[]): Html {
  if (variants.every(({ search }) => !search))
    return record.learningRate === null
      ? html`<p class="note">Learning rates differ between the runs as the compare file says.</p>`
      : html`<p class="note">One learning rate, ${String(record.learningRate)}, was used for all methods as given. It was not searched for each, and forcing one rate on all methods is not identical treatment: <code>search:</code> finds one per method.</p>`;
  const rows = variants.flatMap(({ label, point, search }) =>
    (search?.trials ?? []).map((trial) => {
      const chosen = JSON.stringify(trial.values) === JSON.stringify(search!.chosen);
      const at = pointLabel(point);
      return html`<tr><th scope="row">${label}${at && ` at ${at}`}</th><td>${pointLabel(trial.values)}</td><td class="n${chosen ? ' strong' : ''}">${trial.devLoss === null ? (trial.failure?.kind ?? dash) : decimal(trial.devLoss)}${chosen && ' (chosen)'}</td></tr>`;
    }),
  );
  const edges = variants.filter(({ search }) => search && search.atEdge.length > 0);
  return html`<h3>Search</h3><p>Each method was given the best of the same values on dev, with seed ${record.seeds[0]} and without the test set. ${edges.length > 0 ? `The best of ${edges.map(({ label }) => label).join(', ')} is at the end of the list: a longer list may find a better one.` : ''}</p>
<details><summary>All ${rows.length} trials</summary><div class="scroll"><table><thead><tr><th>method</th><th>value</th><th class="n">best dev loss</th></tr></thead><tbody>${rows}</tbody></table></div></details>`;
}
