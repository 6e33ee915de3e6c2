import { randomUUID } from 'node:crypto';
import { createWriteStream, existsSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { cannotWrite, makeFolder } from '../atomicFiles.ts';
import { AloraError } from '../errors.ts';
import { preferredFiles } from './modelDirectory.ts';

/** `owner/name`, as models are called on the Hugging Face hub. */
const hubId = /^[\w.-]+\/[\w.-]+$/;

/** Files beside the ONNX file that a run reads. */
const companions =
  /^(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|vocab)\.json$|^chat_template\.jinja$/;

/** HF_ENDPOINT and HF_HOME mean what they mean to Hugging Face's own tools. */
const endpoint = () => (process.env.HF_ENDPOINT ?? 'https://huggingface.co').replace(/\/$/, '');
const cache = () => join(process.env.HF_HOME ?? join(homedir(), '.cache', 'huggingface'), 'onnx-alora');

/**
 * The local path of a model: a path as it is, a hub id as the folder that it was downloaded to. `file` names the
 * ONNX file; without it the best one is taken. What is there already is not fetched again.
 * Errors: HUB_UNREACHABLE, HUB_NOT_FOUND, HUB_NO_ONNX.
 */
export async function localModel(path: string, file?: string): Promise<string> {
  if (existsSync(resolve(path)) || !hubId.test(path) || path.endsWith('.onnx')) return path;
  const folder = join(cache(), path);
  if (existsSync(join(folder, file ?? '.complete'))) return folder;
  const files = await listFiles(path);
  const onnx =
    file ?? preferredFiles.flatMap((name) => [`onnx/${name}`, name]).find((name) => files.includes(name));
  if (onnx === undefined || !files.includes(onnx))
    throw new AloraError('model', 'HUB_NO_ONNX', 'The model on the hub has no such ONNX file', {
      where: path,
      got: file,
      allowed: files.filter((name) => name.endsWith('.onnx')),
      fix: 'Choose a model with ONNX files, such as those for transformers.js, or export it: optimum-cli export onnx.',
    });
  const wanted = files.filter(
    (name) => companions.test(name) || name === onnx || name.startsWith(`${onnx}_data`),
  );
  // The ONNX file comes last: where it is, the others are.
  wanted.sort((a, b) => Number(a === onnx) - Number(b === onnx));
  for (const name of wanted) await download(path, name, join(folder, name));
  if (file === undefined) await download(path, 'config.json', join(folder, '.complete'));
  return folder;
}

async function listFiles(id: string): Promise<string[]> {
  const response = await request(`${endpoint()}/api/models/${id}`, id);
  const { siblings } = (await response.json()) as {
    readonly siblings?: readonly { readonly rfilename: string }[];
  };
  return (siblings ?? []).map(({ rfilename }) => rfilename);
}

async function download(id: string, name: string, target: string): Promise<void> {
  if (existsSync(target)) return;
  const response = await request(`${endpoint()}/${id}/resolve/main/${name}`, id);
  // Another process may fetch the same file at the same time.
  const partial = `${target}.${randomUUID()}.tmp`;
  try {
    makeFolder(dirname(target));
    removeAbandoned(dirname(target));
    await pipeline(Readable.fromWeb(response.body! as never), createWriteStream(partial));
    renameSync(partial, target);
  } catch (cause) {
    rmSync(partial, { force: true });
    const { path, syscall } = cause as NodeJS.ErrnoException;
    if (path !== undefined || syscall === 'write') throw cannotWrite(target, cause);
    throw new AloraError('model', 'HUB_UNREACHABLE', 'The download from the hub broke off', {
      where: 'model.path',
      got: `${id}, ${name}: ${(cause as Error).message}`,
      fix: 'Run the same command again: files that are whole already are not fetched again.',
      cause,
    });
  }
}

/** Milliseconds after which a file that nobody writes to is what a process left that was ended. */
const abandonedAfter = 3_600_000;

function removeAbandoned(folder: string): void {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    const written = name.endsWith('.tmp') ? statSync(path, { throwIfNoEntry: false })?.mtimeMs : undefined;
    if (written !== undefined && written < Date.now() - abandonedAfter) rmSync(path, { force: true });
  }
}

async function request(url: string, id: string): Promise<Response> {
  const token = process.env.HF_TOKEN;
  let response: Response;
  try {
    response = await fetch(url, { headers: token ? { authorization: `Bearer ${token}` } : {} });
  } catch (cause) {
    throw new AloraError(
      'model',
      'HUB_UNREACHABLE',
      'The model is not on this machine and the hub cannot be reached',
      {
        where: 'model.path',
        got: id,
        fix: 'Connect to the network, or give the path of a model directory.',
        cause,
      },
    );
  }
  if (!response.ok)
    throw new AloraError('model', 'HUB_NOT_FOUND', 'The hub does not give this model', {
      where: 'model.path',
      got: `${id}: ${response.status} ${response.statusText}`,
      fix: 'Check the id; set HF_TOKEN for a gated model; a local directory needs a path such as ./name.',
    });
  return response;
}
