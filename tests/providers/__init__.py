import asyncio

from chatstream.providers import reading


async def drained() -> None:
    """Wait until the connections that ended well are back in the pool."""
    loop = asyncio.get_running_loop()
    await asyncio.gather(*(task for task in reading._tasks if task.get_loop() is loop))
