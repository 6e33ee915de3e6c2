import { pointLabel } from '../../compare/expand.ts';
import { type CompareRecord, unfinished } from '../../compare/record.ts';
import { columnName } from '../figures/compareScores.ts';
import { decimal, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import type { Variant } from '../readCompare.ts';

/** What was compared, in a sentence, and the answer as far as the numbers give one. */
export function compareHeader(record: CompareRecord, variants: readonly Variant[]): Html {
  const open = unfinished(record).length;
  const all = record.variants.flatMap(({ runs }) => runs).length;
  const { budget } = variants[0]!.plan;
  const budgets = [...new Set(variants.map(({ plan }) => plan.budget.target))];
  const lead = [
    `${record.methods.length} methods on ${record.model.name}, task ${record.task}`,
    budgets.length === 1
      ? `a budget of ${integer(budget.target)} parameters (${budget.at})`
      : `${budgets.length} budgets (${budget.at})`,
    `${record.seeds.length} seeds`,
    `${integer(variants[0]!.plan.totalSteps)} steps each`,
  ].join(', ');
  const unequal = record.checks.filter(({ state }) => state === 'failed');
  return html`<header>
<p class="eyebrow">comparison <span class="state${open > 0 ? ' open' : ''}">${open > 0 ? `${all - open} of ${all} runs` : 'finished'}</span></p>
<h1>${record.methods.map(({ label }) => label).join(', ')}</h1>
<p class="lead">${lead}.</p>
<p class="lead">${open > 0 && record.columns.length > 0 && 'So far: '}${answer(record, variants)}</p>
${unequal.length > 0 && html`<div class="notes">Not identical treatment:<ul>${unequal.map(({ name, detail }) => html`<li>${name}: ${detail}</li>`)}</ul></div>`}
</header>`;
}

/** Which method to use, where one is ahead; that none is, where none is. */
function answer(record: CompareRecord, variants: readonly Variant[]): string {
  const column = record.columns[0];
  if (!column) return 'No run has finished yet.';
  const budgets = new Set(variants.map(({ plan }) => plan.budget.target)).size;
  const ahead = variants.filter(({ ahead: columns }) => columns.includes(column.id));
  if (budgets > 1 || new Set(variants.map(({ point }) => JSON.stringify(point))).size > 1)
    return ahead.length === 0
      ? `By ${columnName(column)}, no method is ahead of all others at any point by more than its spread over seeds.`
      : `By ${columnName(column)}, ahead of all others: ${ahead.map(({ label, point }) => `${label} at ${pointLabel(point)}`).join('; ')}.`;
  const measured = variants.filter(({ summary }) => summary[column.id]);
  const sorted = [...measured].sort(
    (a, b) => (a.summary[column.id]!.median - b.summary[column.id]!.median) * (column.lowerIsBetter ? 1 : -1),
  );
  const [first, second] = sorted;
  if (!first || !second) return 'Only one method has finished runs so far.';
  const scores = `${decimal(first.summary[column.id]!.median)} against ${decimal(second.summary[column.id]!.median)}`;
  return ahead.length > 0
    ? `By ${columnName(column)}, ${first.label} is ahead of every other method: median ${scores} of ${second.label}.`
    : `By ${columnName(column)}, ${first.label} has the best median (${scores} of ${second.label}), but it is not ahead of every other method by more than the spread over seeds.`;
}
