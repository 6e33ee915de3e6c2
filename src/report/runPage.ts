import { budgetFigures } from './figures/budget.ts';
import type { Figure } from './figures/figure.ts';
import { lossFigure } from './figures/loss.ts';
import { perStepFigure } from './figures/perStep.ts';
import { rankFigures, rankHistoryFigures } from './figures/ranks.ts';
import { scoreRoundsFigure, scoresFigure } from './figures/scores.ts';
import { type Html, html } from './html.ts';
import { type DrawnFigure, drawFigure, renderPage } from './page.ts';
import type { Run } from './read.ts';
import { bestEvaluation, header, lastStep } from './sections/header.ts';
import { allocationTable, moduleTable } from './sections/ranks.ts';
import { liveTotals, record, samples, speedText } from './sections/record.ts';
import { budgetTable, metricsTable } from './sections/results.ts';
import { budgetOverTime } from './series.ts';

const present = <T>(items: readonly (T | undefined)[]): T[] => items.filter((item) => item !== undefined);

/** The page of one run, and its figures in the order in which they stand. */
export async function runPage(run: Run): Promise<{ html: string; figures: DrawnFigure[] }> {
  const drawn: DrawnFigure[] = [];
  const figures = async (list: readonly (Figure | undefined)[]): Promise<Html> => {
    const these: DrawnFigure[] = [];
    for (const figure of present(list)) these.push(await drawFigure(figure));
    drawn.push(...these);
    return html`${these.length > 0 && html`<div class="figures">${these.map((f) => f.markup)}</div>`}`;
  };
  const section = (id: string, title: string, ...body: Html[]): Html =>
    html`<section id="${id}"><h2>${title}</h2>\n${body}</section>\n`;

  const { steps } = run;
  const perStep = (value: (step: Run['steps'][number]) => number | undefined) =>
    steps.map((s) => ({ step: s.step, value: value(s) ?? Number.NaN }));
  const last = run.scores.at(-1);
  const text = samples(run);
  const sections = [
    section('results', 'Results', metricsTable(run)),
    section(
      'learning',
      'Learning',
      await figures([
        lossFigure(steps, run.evals, bestEvaluation(run)?.step),
        perStepFigure({
          id: 'learning-rate',
          title: 'Learning rate',
          caption: 'The rate that each step used.',
          unit: 'rate',
          format: '~g',
          points: perStep((s) => s.learningRate),
          exact: true,
        }),
        perStepFigure({
          id: 'gradient-norm',
          title: 'Gradient norm',
          caption: 'L2 norm over all trained tensors, before clipping.',
          unit: 'norm',
          format: ',~f',
          points: perStep((s) => s.gradNorm),
        }),
      ]),
    ),
    section(
      'budget',
      'Budget',
      budgetTable(run),
      await figures(
        budgetFigures(budgetOverTime(run.modules, run.allocations, lastStep(run)), run.result?.budget.target),
      ),
    ),
    section(
      'ranks',
      'Ranks',
      html`<p>${liveTotals(run)}.</p>`,
      await figures(rankFigures(run.modules)),
      await figures(rankHistoryFigures(run.modules, run.allocations)),
      allocationTable(run),
      moduleTable(run),
    ),
    last &&
      section(
        'scores',
        'Scores',
        await figures([scoreRoundsFigure(run.scores), scoresFigure(last, run.modules)]),
      ),
    text && section('samples', 'Samples', text),
    section(
      'speed',
      'Speed',
      speedText(run),
      await figures([
        perStepFigure({
          id: 'step-time',
          title: 'Step time',
          caption: 'Milliseconds of each step, evaluation and saving excluded.',
          unit: 'ms',
          format: ',~f',
          points: perStep((s) => s.ms),
        }),
        perStepFigure({
          id: 'token-rate',
          title: 'Tokens a second',
          caption: 'Input tokens of each step, padding excluded.',
          unit: 'tokens/s',
          format: ',~f',
          points: perStep((s) => (s.tokens !== undefined && s.ms ? (1000 * s.tokens) / s.ms : undefined)),
        }),
      ]),
    ),
    section('record', 'Record', record(run)),
  ];
  const version = run.result?.versions['onnx-alora'];
  return {
    html: renderPage({
      title: `${run.name}: run report`,
      header: header(run),
      sections: present(sections),
      footer: `Made by onnx-alora report${version ? ` (run by version ${version})` : ''} from the files of the run folder; the figures lie beside this page as SVG.`,
    }),
    figures: drawn,
  };
}
