import click
from jinja2 import Template

TABLE = Template("{% for row in rows %}{{ '%3d' % row }} {{ '*' * row }}\n{% endfor %}")


@click.command()
@click.option("--check", is_flag=True, help="only say that the program works")
@click.option("--rows", default=3, help="how many rows to print")
def main(check, rows):
    if check:
        click.echo("ok")
    else:
        click.echo(TABLE.render(rows=range(1, rows + 1)), nl=False)


main()
