import type { RunResult, SplitResult } from '../../training/reporter.ts';
import { amount, change, decimal, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import { type Run, setting } from '../read.ts';
import { bestEvaluation, spaced } from './header.ts';

/** Rows of one split: loss and every metric, at the start, at the best step and at the end. */
function rows(split: string, before?: SplitResult, best?: SplitResult, last?: SplitResult): Html[] {
  const shown = best ?? last ?? before;
  if (!shown) return [];
  const value = (of: SplitResult | undefined, metric?: string) => (metric ? of?.metrics[metric] : of?.loss);
  return [undefined, ...Object.keys(shown.metrics).sort()].map((metric) => {
    const [b, g, l] = [value(before, metric), value(best, metric), value(last, metric)];
    const moved = b !== undefined && g !== undefined ? change(g - b) : '\u2013';
    return html`<tr><th scope="row">${split} ${metric ? spaced(metric) : 'loss'}</th><td class="n">${decimal(b)}</td><td class="n strong">${decimal(g)}</td><td class="n">${moved}</td><td class="n">${decimal(l)}</td></tr>`;
  });
}

/** Dev and test before and after. */
export function metricsTable(run: Run): Html {
  const { result } = run;
  const dev = run.evals.filter((e) => e.split === 'dev');
  const test = run.evals.filter((e) => e.split === 'test');
  const body = [
    ...(result?.dev
      ? rows('Dev', result.dev.before, result.dev.best, result.dev.last)
      : rows('Dev', dev[0], bestEvaluation(run), dev.at(-1))),
    ...(result?.test
      ? rows('Test', result.test.before, result.test.best)
      : rows('Test', test[0], test.at(-1))),
  ];
  if (body.length === 0) return html`<p>No evaluation has been made yet.</p>`;
  const best = bestEvaluation(run);
  return html`<div class="scroll"><table>
<thead><tr><th></th><th class="n">step 0</th><th class="n">best${best ? ` (step ${integer(best.step)})` : ''}</th><th class="n">change</th><th class="n">last step</th></tr></thead>
<tbody>${body}</tbody></table></div>`;
}

/** Peak, final and average counts against the target, and the count recovered from the adapter files. */
export function budgetTable(run: Run): Html {
  const { result } = run;
  if (!result)
    return html`<p class="note">Peak, final and average counts are known when the run has finished.</p>`;
  const { budget } = result;
  const at = budget.at ?? setting(run.config, 'budget.at') ?? 'final';
  const line = (name: keyof Pick<RunResult['budget'], 'peak' | 'final' | 'average'>, meaning: string) => {
    const { parameters, ranks } = budget[name];
    const share = budget.target ? `${((100 * parameters) / budget.target).toFixed(2)} %` : '\u2013';
    return html`<tr><th scope="row">${name}${at === name && html` <span class="note">(must meet the budget)</span>`}<br><span class="note">${meaning}</span></th><td class="n${at === name ? ' strong' : ''}">${amount(parameters)}</td><td class="n">${ranks === undefined ? '\u2013' : amount(ranks)}</td><td class="n">${share}</td></tr>`;
  };
  return html`<div class="scroll"><table>
<thead><tr><th></th><th class="n">parameters</th><th class="n">ranks</th><th class="n">of the budget</th></tr></thead>
<tbody>${line('peak', 'the most at any step')}${line('final', 'after the last step')}${line('average', 'mean over all steps')}
${budget.target !== undefined && html`<tr><th scope="row">budget</th><td class="n">${amount(budget.target)}</td><td class="n"></td><td class="n"></td></tr>`}</tbody></table></div>
${budget.heads ? html`<p class="note">Heads that train fully (${amount(budget.heads)} parameters) are not paid for by the budget.</p>` : ''}
${recount(run)}`;
}

/** The same sum from the shapes in adapter/, so that the record can be believed. */
function recount(run: Run): Html {
  if (
    !run.result ||
    run.modules.length === 0 ||
    run.modules.some((m) => m.cost === undefined || m.saved === undefined)
  )
    return html``;
  const counted = run.modules.reduce((sum, m) => sum + m.saved! * m.cost!, 0);
  const agrees = counted === run.result.budget.final.parameters;
  return html`<p class="note">Recounted from the adapter's tensors: ${amount(counted)} parameters${agrees ? ', as recorded.' : `; result.json records ${amount(run.result.budget.final.parameters)}.`}</p>`;
}
