import { AloraError, nearest } from '../errors.ts';
import { chat } from './chat.ts';
import { classification } from './classification.ts';
import { alpaca } from './named/alpaca.ts';
import { boolq } from './named/boolq.ts';
import { copa } from './named/copa.ts';
import { e2e } from './named/e2e.ts';
import { qnli } from './named/qnli.ts';
import { rte } from './named/rte.ts';
import { qaSpan, record, squad } from './named/squad.ts';
import { sst2 } from './named/sst2.ts';
import { trec } from './named/trec.ts';
import { prompt } from './prompt.ts';
import type { Task } from './task.ts';
import { text } from './text.ts';
import { tokenClassification } from './tokenClassification.ts';
import { transcription } from './transcription.ts';

/** Every task by the word that stands in `data.task`: a new one is one file and one line here. */
export const tasks: Readonly<Record<string, Task>> = {
  text,
  prompt,
  chat,
  classification,
  'token-classification': tokenClassification,
  'qa-span': qaSpan,
  transcription,
  alpaca,
  boolq,
  copa,
  e2e,
  qnli,
  record,
  rte,
  squad,
  sst2,
  trec,
};

/** @throws AloraError of kind config with the nearest name. */
export function findTask(name: string): Task {
  const task = Object.hasOwn(tasks, name) ? tasks[name] : undefined;
  if (task) return task;
  const names = Object.keys(tasks);
  throw new AloraError('config', 'CONFIG_UNKNOWN_TASK', `unknown task "${name}"`, {
    where: 'data.task',
    got: name,
    allowed: names,
    didYouMean: nearest(name, names),
    fix: 'name one of the tasks that exist; prompt takes any rows of prompt and completion',
  });
}
