"""The device tree overlay that tells Linux on a Zynq-7000 of the accelerator."""

from __future__ import annotations


def overlay(name: str, *, registers: int, clock_mhz: float, buffer_mib: int) -> str:
    """Source text of the overlay.

    Parameters
    ----------
    name : of the build; the kernel looks for the bitstream as fractrain_`name`.bin.
    registers : physical address of the registers.
    clock_mhz : rate of FCLK0.
    buffer_mib : size of the buffer that the processor and the accelerator share.
    """
    hertz = round(clock_mhz * 1e6)
    return f"""\
/dts-v1/;
/plugin/;

&fpga_full {{
	#address-cells = <1>;
	#size-cells = <1>;
	firmware-name = "fractrain_{name}.bin";

	/* FCLK0; without the module fclkcfg it has the rate that the boot loader gave it. */
	fclk0 {{
		compatible = "ikwzm,fclkcfg-0.10.a";
		clocks = <&clkc 15>;
		insert-rate = "{hertz}";
		insert-enable = <1>;
	}};

	/* Interrupt 61 of the GIC is IRQF2P[0]; it is a level. */
	fractrain@{registers:x} {{
		compatible = "generic-uio";
		reg = <{registers:#x} 0x1000>;
		interrupt-parent = <&intc>;
		interrupts = <0 29 4>;
	}};

	fractrain-buffer {{
		compatible = "ikwzm,u-dma-buf";
		device-name = "fractrain-buffer";
		size = <{buffer_mib << 20:#x}>;
	}};
}};
"""
