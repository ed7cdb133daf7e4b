"""Memory that refuses accesses, for benches whose bus model is cocotbext-axi."""

from __future__ import annotations


class Refusing:
    """Put before a memory region's class: accesses to the addresses in `refused` are answered with an error."""

    refused = range(0)

    async def _read(self, address, length, **kwargs):
        self._check(address)
        return await super()._read(address, length, **kwargs)

    async def _write(self, address, data, **kwargs):
        self._check(address)
        await super()._write(address, data, **kwargs)

    def _check(self, address: int) -> None:
        if address in self.refused:
            raise ValueError(f"{address:#x} is refused")  # the bus model makes it an error response
