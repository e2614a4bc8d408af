/**
 * Shows work as it goes on: a live list on a terminal, plain lines elsewhere. Long work gives its state as
 * text; what is shown of it on plain output is at most one line every few seconds.
 */
import { Listr, type ListrTask } from 'listr2';

/** What a piece of work may say of itself. */
export interface Progress {
  /** A step is done, or something happened that should stay on the screen. */
  line(text: string): void;
  /** Where long work stands; the next one replaces it. */
  state(text: string): void;
}

export interface Job {
  title: string;
  work: (progress: Progress) => Promise<void>;
}

export interface ProgressOptions {
  /** Live list; otherwise plain lines. */
  live: boolean;
  write: (text: string) => void;
  /** Milliseconds, for the distance between two states on plain output. */
  nowMs: () => number;
}

/** Between two states of one job on plain output. */
const PLAIN_STATE_MS = 5_000;

/**
 * Runs all jobs side by side and shows how they go. The jobs bound what they use themselves.
 *
 * @returns the errors, by the job's place; a failing job does not stop the others
 */
export async function showJobs(jobs: readonly Job[], options: ProgressOptions): Promise<unknown[]> {
  const errors: unknown[] = jobs.map(() => undefined);
  if (options.live) {
    const tasks: ListrTask[] = jobs.map((job, index) => ({
      title: job.title,
      task: async (_context, task) => {
        try {
          await job.work({
            line: (text) => {
              task.output = text;
            },
            state: (text) => {
              task.title = `${job.title}: ${text}`;
            },
          });
          task.title = job.title;
        } catch (error) {
          errors[index] = error;
          throw error;
        }
      },
      rendererOptions: { outputBar: 3, persistentOutput: true },
    }));
    await new Listr(tasks, {
      concurrent: true,
      exitOnError: false,
      rendererOptions: { showErrorMessage: false },
    }).run();
    return errors;
  }
  await Promise.all(
    jobs.map(async (job, index) => {
      let lastMs = -Infinity;
      const write = (text: string): void => options.write(`${job.title}: ${text}\n`);
      try {
        await job.work({
          line: write,
          state: (text) => {
            const nowMs = options.nowMs();
            if (nowMs - lastMs < PLAIN_STATE_MS) return;
            lastMs = nowMs;
            write(text);
          },
        });
      } catch (error) {
        errors[index] = error;
      }
    }),
  );
  return errors;
}
