// Starts a run on a platform and watches it to its end.
//
//     CREWLOG_TOKEN=... node client.js ADDRESS REPOSITORY RUN_ID
//
// Prints every event as one line of JSON, then the run as the platform shows it.

import process from "node:process";

import grpc from "@grpc/grpc-js";

import { discover } from "./reflection.js";

const CALL_SECONDS = 30;
const WORKFLOW = {
  name: "noop-from-node",
  nodes: [
    { node_id: "first", noop: { steps: 2 } },
    { node_id: "second", depends_on: ["first"], noop: { steps: 1 } },
  ],
};

async function main([address, repository, runId]) {
  const metadata = new grpc.Metadata();
  metadata.set("authorization", `Bearer ${process.env.CREWLOG_TOKEN}`);
  const { v1 } = (await discover(address, metadata)).crewlog;
  const connect = (Service) => new Service(address, grpc.credentials.createInsecure());
  const projects = connect(v1.ProjectService);
  const runs = connect(v1.RunService);

  const project = await call(projects, "Register", { path: repository }, metadata);
  const start = { run_id: runId, project_id: project.project_id, workflow: WORKFLOW, input: "from Node" };
  const receipt = await call(runs, "Start", start, metadata);
  const last = await watch(runs, runId, metadata);
  const run = await call(runs, "Get", { run_id: runId, at_least_revision: last }, metadata);
  print({ receipt: receipt.revision, run });
  projects.close();
  runs.close();
}

function call(client, method, request, metadata) {
  const deadline = Date.now() + CALL_SECONDS * 1000;
  return new Promise((resolve, reject) => {
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });
}

// The stream ends by itself after the last entry of the run. Answers the revision of that entry.
async function watch(runs, runId, metadata) {
  let last = "0";
  for await (const { entry } of runs.Watch({ run_id: runId }, metadata)) {
    if (entry) {
      last = entry.revision;
      events(entry).forEach(print);
    }
  }
  return last;
}

function events({ revision, entry }) {
  const { kind, id } = entry.aggregate;
  const facts = entry.decisions.flatMap((decision) => decision.events);
  return facts.map((event) => ({ revision, kind, id, ordinal: entry.ordinal, type: event.fact, event: event[event.fact] }));
}

function print(value) {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

main(process.argv.slice(2)).catch((error) => {
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
});
