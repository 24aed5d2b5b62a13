"""A Dask scheduler and one worker in a process of their own, for tests that kill them."""

SCHEDULER = """
import asyncio
from distributed import Scheduler, Worker

async def main():
    async with Scheduler(port=0, dashboard=False) as scheduler, Worker(scheduler.address, nthreads=1):
        print(scheduler.address, flush=True)
        await asyncio.sleep(300)

asyncio.run(main())
"""
