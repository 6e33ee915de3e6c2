import { amount, bytes, decimal, duration, integer } from '../format.ts';
import { type Html, html } from '../html.ts';
import { type Run, setting } from '../read.ts';

/** Last step that anything was measured at. */
export const lastStep = (run: Run): number =>
  Math.max(run.steps.at(-1)?.step ?? 0, run.evals.at(-1)?.step ?? 0, run.allocations.at(-1)?.step ?? 0);

/** Dev evaluation with the lowest loss so far: what `best/` holds. */
export function bestEvaluation(run: Run) {
  const dev = run.evals.filter((e) => e.split === 'dev' && Number.isFinite(e.loss));
  const recorded = run.result && dev.find((e) => e.step === run.result!.bestStep);
  return (
    recorded ??
    dev.reduce<(typeof dev)[number] | undefined>((a, b) => (a && a.loss <= b.loss ? a : b), undefined)
  );
}

function state(run: Run): Html {
  if (!run.result) return html`<span class="state open">not finished</span>`;
  if (run.result.stoppedEarly) return html`<span class="state">stopped early</span>`;
  return html`<span class="state">finished</span>`;
}

const known = (value: unknown): value is string | number =>
  typeof value === 'string' || typeof value === 'number';

/** The folder that a model path ends in: `models/gpt2/onnx/model.onnx` -> `gpt2`. The path itself stands in the record. */
function modelName(path: string): string {
  const parts = path
    .split(/[\\/]/)
    .filter((part) => part !== '' && part !== 'onnx' && !part.endsWith('.onnx'));
  return parts.at(-1) ?? path;
}

/** What was run, in a sentence. */
export function header(run: Run): Html {
  const get = (path: string) => setting(run.config, path);
  const strategy = get('adapter.strategy');
  const model = get('model.path');
  const rank = get('budget.rank');
  const parameters = get('budget.parameters');
  const budget = known(rank)
    ? `a rank-${rank} budget`
    : known(parameters)
      ? `a budget of ${integer(Number(parameters))} parameters`
      : '';
  const seed = get('train.seed');
  const task = get('data.task');
  const step = lastStep(run);
  const planned =
    run.result?.totalSteps ?? (known(get('train.steps')) ? Number(get('train.steps')) : undefined);
  const steps =
    planned !== undefined && planned !== step
      ? `${integer(step)} of ${integer(planned)} steps`
      : `${integer(step)} steps`;
  const pieces = [
    known(strategy) && known(model) && `${strategy} on ${modelName(String(model))}`,
    known(task) && `task ${task}`,
    budget,
    steps,
    known(seed) && `seed ${seed}`,
  ].filter((piece) => piece !== false && piece !== '');
  return html`<header>
<p class="eyebrow">onnx-alora run ${state(run)}</p>
<h1>${run.name}</h1>
<p class="lead">${pieces.join(', ')}</p>
${!run.result && html`<p class="lead">No result.json yet: the run is going on, or it was interrupted. What follows is its state at step ${integer(step)}; <code>train --resume</code> goes on from the last checkpoint.</p>`}
${facts(run)}
${run.notes.length > 0 && html`<div class="notes">To be noted:<ul>${run.notes.map((note) => html`<li>${note}</li>`)}</ul></div>`}
</header>`;
}

function fact(name: string, value: Html | string, small?: string): Html {
  return html`<div><dt>${name}</dt><dd>${value}${small !== undefined && html`<small>${small}</small>`}</dd></div>`;
}

/** The few numbers that answer "did it work, and what did it cost". */
function facts(run: Run): Html {
  const { result } = run;
  const first = run.evals.find((e) => e.split === 'dev');
  const best = bestEvaluation(run);
  const items: Html[] = [];
  const arrow = (from: string, to: string) => html`<span class="from">${from} \u2192</span> ${to}`;
  if (first && best) {
    items.push(
      fact('Dev loss', arrow(decimal(first.loss), decimal(best.loss)), `best, at step ${integer(best.step)}`),
    );
    for (const name of ['accuracy', 'exactMatch', 'f1', 'tokenAccuracy', 'perplexity'])
      if (items.length < 2 && name in best.metrics)
        items.push(
          fact(
            `Dev ${spaced(name)}`,
            arrow(decimal(first.metrics[name]), decimal(best.metrics[name])),
            'at that step',
          ),
        );
  }
  if (result) {
    const { at, target } = result.budget;
    const spent = result.budget[at ?? 'final'].parameters;
    const share = target ? `${((100 * spent) / target).toFixed(1)} % of ${integer(target)}` : '';
    items.push(fact('Trained parameters', amount(spent), [at, share].filter(Boolean).join(', ')));
    items.push(
      fact(
        'Time',
        duration(result.seconds),
        result.allocations > 0 ? `${duration(result.secondsAllocating)} of it moving ranks` : undefined,
      ),
    );
    if (result.peakMemory) items.push(fact('Peak memory', bytes(result.peakMemory)));
  }
  return html`<dl class="facts">${items}</dl>`;
}

/** `tokenAccuracy` -> `token accuracy`. */
export const spaced = (name: string): string => name.replace(/([a-z])([A-Z])/g, '$1 $2').toLowerCase();
