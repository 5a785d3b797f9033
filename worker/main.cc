// sluice-worker: one worker process of a cluster.

#include "worker/worker_main.h"

int main(int argc, char** argv) {
  return sluice::worker::RunWorker(argc, argv, {});
}
